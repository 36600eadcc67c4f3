import json
import subprocess
import sys

import pytest

from hfx.bench.cli import main

UNREACHABLE = "http://127.0.0.1:9"  # the discard port: nothing listens there


def one_line(capsys) -> str:
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    return err


def arguments(server, *more: str) -> list[str]:
    return ["--base-url", server.base_url, "--num-prompts", "4", "--disable-tqdm", *more]


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["--goodput", "ttft=200"], "METRIC:MILLISECONDS"),
        (["--goodput", "itl:5"], "ttft, tpot, e2el"),
        (["--goodput", "ttft:-1"], "not above 0"),
        (["--goodput", "ttft:"], "METRIC:MILLISECONDS"),
        (["--goodput", "ttft:fast"], "no number"),
        (["--find-rate", "90"], "between 0 and 1"),
        (["--warmup-s", "-1"], "below 0"),
        (["--request-rate", "0"], "not above 0"),
        (["--request-rate", "fast"], "no number"),
        (["--num-prompts", "0"], "at least 1"),
        (["--metric-percentiles", "101"], "from 0 to 100"),
        (["--percentile-metrics", "speed"], "none of ttft"),
        (["--extra-body", "[1]"], "no JSON object"),
        (["--header", "nothing"], "NAME=VALUE"),
        (["--backend", "grpc"], "invalid choice"),
    ],
)
def test_a_bad_option_is_one_line_and_status_2(capsys, argv, said):
    with pytest.raises(SystemExit) as exit_:
        main(argv)

    assert exit_.value.code == 2
    assert said in one_line(capsys)


def test_help_shows_the_defaults_that_say_something(capsys):
    with pytest.raises(SystemExit):
        main(["--help"])

    text = " ".join(capsys.readouterr().out.split())
    assert "requests per second, or inf (default: inf)" in text
    assert "lengths vary by up to this share (default: 0.0)" in text
    for nothing in ("None", "False", "[]", "{}", ""):
        assert f"(default: {nothing})" not in text


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        ([], "can't reach http://127.0.0.1:9"),
        (["--ramp-up-strategy", "linear"], "--ramp-up-start-rps"),
        (["--ramp-up-start-rps", "1"], "--ramp-up-strategy"),
        (["--dataset-name", "custom"], "needs --dataset-path"),
        (["--use-trace-timestamps"], "needs --dataset-name trace"),
        (["--send-slo"], "give --goodput or --tiers"),
        (["--find-rate", "0.9"], "give --goodput or --tiers"),
        (["--find-rate", "0.9", "--goodput", "ttft:9"], "starts at --request-rate"),
        (["--tiers", "[{name: a}]", "--goodput", "ttft:9"], "leave --goodput out"),
        (["--plot", "picture.pdf"], ".svg or .png"),
        (["--random-range-ratio", "1"], "range_ratio is 1.0"),
    ],
)
def test_bad_input_is_one_line_and_status_2(capsys, argv, said):
    assert main(["--base-url", UNREACHABLE, *argv]) == 2
    assert said in one_line(capsys)


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["--dataset-name", "custom", "--dataset-path", "/none.jsonl"], "/none.jsonl"),
        (["--tokenizer", "/none"], "--tokenizer /none"),
    ],
)
def test_bad_input_that_is_read_late_is_one_line_too(scripted, capsys, argv, said):
    assert main(arguments(scripted, *argv)) == 2
    assert said in one_line(capsys)


def test_a_refused_first_request_ends_before_the_load(scripted, capsys):
    scripted.status, scripted.pieces = 404, [b'{"error": {"message": "no model called x"}}']

    assert main(arguments(scripted, "--model", "x")) == 2
    assert "no model called x" in one_line(capsys)
    assert len(scripted.bodies) == 1


def test_a_server_that_is_still_loading_is_waited_for(scripted, capsys):
    scripted.say("a")
    scripted.not_ready_answers = 1

    assert main(arguments(scripted)) == 2
    assert "HTTP 503" in one_line(capsys)

    scripted.not_ready_answers = 1
    assert main(arguments(scripted, "--ready-check-timeout-sec", "20")) == 0


def test_both_files_hold_what_the_table_shows(scripted, capsys, tmp_path):
    scripted.say("a", "b", usage=(5, 2))
    argv = ["--random-input-len", "5", "--goodput", "ttft:60000", "--save-detailed"]
    argv += ["--result-dir", str(tmp_path), "--result-filename", "r.json"]
    argv += ["--json", str(tmp_path / "new" / "record.json"), "--metadata", "tier=a"]

    assert main(arguments(scripted, *argv)) == 0

    result = json.loads((tmp_path / "r.json").read_text())
    record = json.loads((tmp_path / "new" / "record.json").read_text())
    shown = capsys.readouterr().out
    assert result["completed"] == record["summary"]["completed"] == len(record["rows"]) == 4
    assert result["output_lens"] == [row["output_tokens"] for row in record["rows"]] == [2] * 4
    assert (result["request_rate"], result["tier"]) == ("inf", "a")
    assert record["machine"]["cores"] >= 1
    assert "All targets kept:" in shown and "100.0%" in shown


def test_the_key_is_sent_and_an_environment_key_is_never_shown(scripted, monkeypatch, capsys):
    scripted.say("a")
    scripted.vocabulary = list(range(9))
    monkeypatch.setenv("OPENAI_API_KEY", "from-environment")

    main(arguments(scripted))
    main(arguments(scripted, "--api-key", "from-option"))
    with pytest.raises(SystemExit):
        main(["--help"])

    sent = [headers["Authorization"] for headers in scripted.headers]
    assert sent == ["Bearer from-environment"] * 5 + ["Bearer from-option"] * 5
    assert "from-environment" not in capsys.readouterr().out


def test_save_result_alone_leaves_the_lists_per_request_out(scripted, tmp_path):
    scripted.say("a")

    main(arguments(scripted, "--save-result", "--result-dir", str(tmp_path)))

    (path,) = tmp_path.glob("openai-infqps-scripted-*.json")
    assert "ttfts" not in json.loads(path.read_text())


def test_the_servers_vocabulary_makes_exact_prompts_and_the_first_request_is_none_of_them(scripted):
    scripted.say("a")
    scripted.vocabulary = list(range(50, 90))

    main(arguments(scripted, "--random-input-len", "6"))

    prompts = [body["prompt"] for body in scripted.bodies[1:]]
    assert [len(prompt) for prompt in prompts] == [6] * 4
    assert {id_ for prompt in prompts for id_ in prompt} <= set(range(50, 90))


def test_a_count_that_differs_from_the_aim_is_said(scripted, capsys):
    scripted.say("a", usage=(7, 1))

    main(arguments(scripted, "--random-input-len", "5"))

    assert "counted 28 input tokens; 20 were aimed for" in capsys.readouterr().out


@pytest.mark.parametrize(("healthy", "status", "failed"), [(1, 1, 4), (3, 0, 2)])
def test_failures_are_counted_with_their_errors(scripted, capsys, healthy, status, failed):
    scripted.say("a")
    scripted.vocabulary = list(range(9))
    scripted.healthy_answers = healthy  # the first of them goes to the request before the load

    assert main(arguments(scripted)) == status
    assert f"failed {failed} x: HTTP 500: broken" in capsys.readouterr().out


def test_importing_the_bench_needs_neither_torch_nor_the_engine():
    code = (
        "import sys, hfx.bench.cli;"
        "print([name for name in sys.modules if name == 'torch' or name.startswith('hfx.engine')])"
    )

    shown = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )

    assert shown.stdout.strip() == "[]"


def test_without_a_tokenizer_words_are_measured_by_the_servers_own_count(scripted, capsys):
    scripted.say("a", usage=(271, 1))

    main(arguments(scripted, "--random-input-len", "30"))
    unmeasured = capsys.readouterr().out
    scripted.counts_words = 2
    main(arguments(scripted, "--random-input-len", "30"))
    measured = capsys.readouterr().out

    assert "plain words, one token each by assumption" in unmeasured  # it counts any prompt alike
    assert "plain words, 2.000 tokens each by the server's usage" in measured
    assert len(scripted.bodies[-1]["prompt"].split()) == 15


def test_a_tiers_targets_and_body_are_sent_and_judged(scripted, tmp_path):
    scripted.say("a", "b", usage=(5, 2))
    scripted.vocabulary = list(range(9))
    mix = tmp_path / "mix.yaml"
    mix.write_text(
        "- {name: fast, share: 3, input_len: 5, output_len: 2, ttft_ms: 60000, tpot_ms: 50000,"
        " send_slo: true, body: {priority: 1}}\n"
        "- {name: slow, share: 1, input_len: 7, output_len: 2, e2el_ms: 0.001}\n"
    )
    files = ["--save-result", "--result-dir", str(tmp_path), "--result-filename", "r.json"]

    assert main(arguments(scripted, "--tiers", str(mix), *files)) == 0

    result = json.loads((tmp_path / "r.json").read_text())
    assert {name: tier["requests"] for name, tier in result["tiers"].items()} == {
        "fast": 3,
        "slow": 1,
    }
    assert result["tiers"]["fast"]["slo_attainment"] == 1.0
    assert result["tiers"]["slow"]["slo_attainment"] == 0.0
    assert result["slo_attainment"] == 0.75
    sent = [body for body in scripted.bodies[1:] if "slo" in body]
    assert len(sent) == 3
    assert sent[0]["slo"] == {"ttft_ms": 60000.0, "tpot_ms": 50000.0} and sent[0]["priority"] == 1
    assert sorted(len(body["prompt"]) for body in scripted.bodies[1:]) == [5, 5, 5, 7]


def test_targets_are_sent_only_when_asked(scripted):
    scripted.say("a")

    main(arguments(scripted, "--goodput", "ttft:100"))
    unasked = list(scripted.bodies)
    main(arguments(scripted, "--goodput", "ttft:100", "--send-slo"))

    assert not any("slo" in body for body in unasked)
    assert scripted.bodies[-1]["slo"] == {"ttft_ms": 100.0}


def test_a_trace_is_replayed_on_its_own_clock_with_its_shared_beginnings(scripted, tmp_path):
    scripted.say("a")
    scripted.vocabulary = list(range(1000, 2000))
    trace = tmp_path / "trace.csv"
    trace.write_text("arrival_s,input_tokens,output_tokens,hash_ids\n0,600,3,7 8\n.6,700,4,7 9\n")
    argv = ["--dataset-name", "trace", "--dataset-path", str(trace), "--use-trace-timestamps"]
    argv += ["--trace-speed", "2", "--max-output-len", "3", "--json", str(tmp_path / "r.json")]

    assert main(arguments(scripted, *argv)) == 0

    first, second = scripted.bodies[1:]
    rows = json.loads((tmp_path / "r.json").read_text())["rows"]
    assert (len(first["prompt"]), len(second["prompt"])) == (600, 700)
    assert first["prompt"][:512] == second["prompt"][:512]
    assert first["prompt"][512:] != second["prompt"][512:600]
    assert (first["max_tokens"], second["max_tokens"]) == (3, 3)
    assert rows[1]["start_ms"] >= 290


def test_warm_up_is_load_but_in_no_figure(scripted, tmp_path, capsys):
    scripted.say("a")
    scripted.vocabulary = list(range(9))
    argv = ["--request-rate", "40", "--num-warmups", "2", "--json", str(tmp_path / "r.json")]
    argv += ["--num-prompts", "12"]

    assert main(arguments(scripted, *argv, "--warmup-s", "0.15")) == 0
    assert main(arguments(scripted, *argv, "--warmup-s", "99")) == 2

    rows = json.loads((tmp_path / "r.json").read_text())["rows"]
    assert len(scripted.bodies) == 2 * (1 + 2 + 12)
    assert 0 < len(rows) < 12
    assert "raise --num-prompts" in capsys.readouterr().err


@pytest.mark.parametrize("suffix", ["svg", "png"])
def test_a_picture_of_both_distributions_is_drawn(scripted, tmp_path, suffix):
    scripted.say("a", "b", usage=(5, 2))
    picture = tmp_path / f"cdf.{suffix}"

    assert main(arguments(scripted, "--goodput", "ttft:9", "tpot:9", "--plot", str(picture))) == 0

    drawn = picture.read_bytes()
    assert drawn.startswith(b"\x89PNG") or (b"<svg" in drawn and b"</svg>" in drawn)


def test_a_picture_without_matplotlib_is_refused_before_the_load(scripted, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)

    assert main(arguments(scripted, "--plot", "cdf.svg")) == 2
    assert "pip install 'hfx[plot]'" in one_line(capsys)
    assert not scripted.bodies
