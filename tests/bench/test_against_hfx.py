"""The load generator against the real server and the bundled model."""

import json
import re
import signal
import subprocess
import sys
from collections.abc import Iterator

import pytest

from hfx.bench.cli import main

VLLM_KEYS = {
    "date",
    "backend",
    "model_id",
    "tokenizer_id",
    "num_prompts",
    "request_rate",
    "burstiness",
    "max_concurrency",
    "duration",
    "completed",
    "failed",
    "total_input_tokens",
    "total_output_tokens",
    "request_throughput",
    "request_goodput",
    "output_throughput",
    "total_token_throughput",
    "max_output_tokens_per_s",
    "max_concurrent_requests",
    "input_lens",
    "output_lens",
    "ttfts",
    "itls",
    "start_times",
    "generated_texts",
    "errors",
} | {
    f"{statistic}_{metric}_ms"
    for statistic in ("mean", "median", "std", "p99")
    for metric in ("ttft", "tpot", "itl", "e2el")
}


@pytest.fixture(scope="module")
def base_url() -> Iterator[str]:
    command = [sys.executable, "-m", "hfx.serve", "--port", "0", "--kv-cache-memory-bytes", "64MiB"]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as server:
        assert server.stdout is not None
        log = []
        for line in server.stdout:
            log.append(line)
            if ready := re.match(r"ready: .* at (http://\S+)", line):
                yield ready[1]
                break
        else:
            pytest.fail("the server ended before it was ready:\n" + "".join(log))
        server.send_signal(signal.SIGTERM)
        server.communicate(timeout=60)


def measured(base_url, folder, *more):
    argv = ["--base-url", base_url, "--disable-tqdm", "--ignore-eos", "--num-prompts", "6"]
    argv += ["--save-detailed", "--result-dir", str(folder), "--result-filename", "r.json"]

    assert main([*argv, *more]) == 0

    return json.loads((folder / "r.json").read_text())


def test_a_closed_loop_yields_every_key_of_vllm_and_figures_that_agree(base_url, tmp_path):
    lengths = ["--random-input-len", "70", "--random-output-len", "8"]

    result = measured(base_url, tmp_path, "--max-concurrency", "3", *lengths)

    assert result.keys() >= VLLM_KEYS
    assert (result["completed"], result["failed"], result["errors"]) == (6, 0, [""] * 6)
    assert result["input_lens"] == [70] * 6
    assert result["output_lens"] == [8] * 6
    assert result["output_throughput"] == pytest.approx(48 / result["duration"])
    assert result["total_token_throughput"] == pytest.approx((48 + 420) / result["duration"])
    assert 0 < result["mean_ttft_ms"] < result["mean_e2el_ms"] < result["duration"] * 1e3
    latencies = [ttft + sum(itl) for ttft, itl in zip(result["ttfts"], result["itls"], strict=True)]
    assert sum(latencies) / 6 == pytest.approx(result["mean_e2el_ms"] / 1e3, rel=0.05)
    assert all(0 < len(itl) <= 7 for itl in result["itls"])
    assert all(result["generated_texts"])


def test_chats_arrive_as_a_poisson_process_and_are_judged(base_url, tmp_path):
    load = ["--backend", "openai-chat", "--request-rate", "20", "--random-input-len", "16"]
    load += ["--random-output-len", "4", "--goodput", "ttft:60000", "e2el:0.001"]

    result = measured(base_url, tmp_path, *load)

    assert result["completed"] == 6
    assert result["slo_attainment_by_metric"] == {"ttft": 1.0, "e2el": 0.0}
    assert (result["slo_attainment"], result["request_goodput"]) == (0, 0)
    assert result["slo_attainment_low"] == 0 < result["slo_attainment_high"] < 1
    assert result["output_lens"] == [4] * 6
    starts = result["start_times"]
    assert starts == sorted(starts) and starts[-1] - starts[0] > 0.1
    assert "saturated" in result


def test_an_unknown_model_and_a_prompt_that_is_too_long_are_told_in_one_line(base_url, capsys):
    argv = ["--base-url", base_url, "--num-prompts", "2", "--disable-tqdm"]

    assert main([*argv, "--model", "gpt-9"]) == 2
    refused = capsys.readouterr()
    assert main([*argv, "--random-input-len", "9000"]) == 1
    failed = capsys.readouterr()

    assert "gpt-9" in refused.err and refused.err.count("\n") == 1
    assert re.search(r"failed 2 x: HTTP 400: .*9000", failed.out)


def test_the_highest_rate_lies_between_one_that_keeps_its_promises_and_one_that_does_not(
    base_url, tmp_path, capsys
):
    argv = ["--base-url", base_url, "--disable-tqdm", "--ignore-eos", "--num-prompts", "30"]
    argv += ["--random-input-len", "32", "--random-output-len", "4", "--goodput", "ttft:400"]
    argv += ["--find-rate", "0.9", "--request-rate", "16", "--find-tolerance", "1"]
    argv += ["--find-runs", "1", "--json", str(tmp_path / "r.json")]
    argv += ["--plot", str(tmp_path / "sweep.svg")]

    assert main(argv) == 0

    record = json.loads((tmp_path / "r.json").read_text())
    rates = {trial["request_rate"]: trial["passes"] for trial in record["rows"]}
    passed, failed = record["summary"]["highest_rate"], record["summary"]["lowest_failed_rate"]
    assert rates[passed] and not rates[failed] and failed == pytest.approx(2 * passed)
    assert f"{passed:.3f}" in capsys.readouterr().out
    assert "<svg" in (tmp_path / "sweep.svg").read_text()


def test_a_published_kind_of_trace_runs_with_tiers_on_its_own_clock(base_url, tmp_path):
    trace = tmp_path / "mooncake.jsonl"
    lines = [
        {"timestamp": 100 * i, "input_length": 600, "output_length": 2, "hash_ids": [1, 10 + i]}
        for i in range(6)
    ]
    trace.write_text("\n".join(json.dumps(line) for line in lines))
    mix = "[{name: tight, ttft_ms: 0.001}, {name: loose, ttft_ms: 60000}]"

    result = measured(
        base_url,
        tmp_path,
        *("--dataset-name", "trace", "--dataset-path", str(trace), "--use-trace-timestamps"),
        *("--tiers", mix),
    )

    assert result["input_lens"] == [600] * 6
    assert result["start_times"] == sorted(result["start_times"])
    assert result["tiers"]["tight"]["slo_attainment"] == 0.0
    assert result["tiers"]["loose"]["slo_attainment"] == 1.0
    assert result["slo_attainment"] == 0.5
    assert result["prompt_source"] == "token ids of the server's /tokenize"
