"""A server whose device is emulated: the whole server, named as what it is, and without torch."""

import json
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from hfx.bench.cli import main as bench

PROFILE = "rtxpro6000-llama3.1-8b"
DEVICE = ("--device", f"emulated:{PROFILE}")
TIERS = "{chat: {ttft_ms: 1000, tpot_ms: 100}, absurd: {ttft_ms: 0.01, may_refuse: true}}"
# The real command line, and afterwards what the process has imported.
RECORDED = """\
import sys
from hfx.serve.cli import main
code = main(sys.argv[1:])
print('torch was imported:', 'torch' in sys.modules, flush=True)
sys.exit(code)
"""


@pytest.fixture(scope="module")
def emulated(begin: Callable[..., Any]) -> Iterator[Any]:
    running = begin(*DEVICE, "--tiers", TIERS, "--max-model-len", "4000")
    try:
        running.wait_for("EMULATED: ")
        yield running
        assert running.stop() == 0
    finally:
        running.end()


def ask(server: Any, **options: Any) -> httpx.Response:
    body = {"messages": [{"role": "user", "content": "What is the capital of Japan?"}]} | options
    answer = server.post("/v1/chat/completions", body)
    assert isinstance(answer, httpx.Response)
    return answer


def test_a_process_that_has_answered_a_stream_over_http_has_imported_no_torch() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", RECORDED, *DEVICE, "--port", "0"],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        try:
            assert process.stdout is not None
            ready = next(line for line in process.stdout if line.startswith("ready: "))
            url = ready.split(" at ")[1].split(" ")[0]
            with openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as client:
                stream = client.chat.completions.create(
                    model="SmolLM2-135M-Instruct",
                    messages=[{"role": "user", "content": "Hello"}],
                    max_tokens=10,
                    stream=True,
                )
                text = "".join(chunk.choices[0].delta.content or "" for chunk in stream)
            process.send_signal(signal.SIGTERM)
            printed = process.stdout.read()
        finally:
            process.kill()

    assert text.startswith(" This answer was made up")
    assert "torch was imported: False" in printed


def test_it_is_named_wherever_the_server_speaks(emulated: Any) -> None:
    card = emulated.get("/v1/models").json()["data"][0]

    assert f"EMULATED: no device computes; steps take as long as cost profile {PROFILE}" in (
        emulated.text
    )
    assert emulated.get("/version").json()["emulated"] == PROFILE
    assert (
        card["emulated"] == emulated.get(f"/v1/models/{card['id']}").json()["emulated"] == PROFILE
    )
    assert f'hfx:emulated{{engine="0",model_name="{card["id"]}",profile="{PROFILE}"}} 1.0' in (
        emulated.get("/metrics").text
    )
    assert ask(emulated, max_tokens=2).json()["system_fingerprint"].endswith(f"emulated-{PROFILE}")


def test_the_time_that_a_device_waits_for_its_host_is_measured(emulated: Any) -> None:
    before = emulated.metric("emulated_host_seconds_count")

    assert ask(emulated, max_tokens=20).status_code == 200

    # The step of the prompt, and 19 of decodes of which the last is followed by none.
    assert emulated.metric("emulated_host_seconds_count") == before + 19


def test_a_server_of_a_real_device_says_nothing_of_it(server: Any) -> None:
    said = [server.get(path).text for path in ("/version", "/v1/models", "/metrics")]

    assert not any("emulated" in text for text in (*said, server.text.split("device ")[1]))


def test_its_benchmarks_are_marked(emulated: Any, tmp_path: Path, capsys: Any) -> None:
    out = tmp_path / "bench.json"
    arguments = ["--base-url", emulated.url, "--num-prompts", "3", "--random-input-len", "40"]

    code = bench([*arguments, "--random-output-len", "5", "--disable-tqdm", "--json", str(out)])

    assert code == 0
    assert json.loads(out.read_text())["machine"]["emulated"] == PROFILE
    assert f"EMULATED: the server's device is {PROFILE}" in capsys.readouterr().out


def test_answers_are_words_and_as_long_as_they_may_be(emulated: Any) -> None:
    answer = ask(emulated).json()
    short = ask(emulated, max_tokens=7).json()

    assert short["usage"]["completion_tokens"] == 7
    assert answer["usage"]["completion_tokens"] == 256
    assert re.fullmatch(r"[A-Za-z ,.:]+", answer["choices"][0]["message"]["content"])


def test_promises_estimates_and_refusals_are_those_of_the_profile(emulated: Any) -> None:
    kept = ask(emulated, max_tokens=5, service_tier="chat").json()
    refused = ask(emulated, max_tokens=5, service_tier="absurd")
    question = {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 100}
    estimate = emulated.post("/v1/estimate", question).json()
    reach = {tier["name"]: tier for tier in emulated.get("/v1/tiers").json()["data"]}

    assert kept["metrics"]["slo"]["met"] is True
    assert refused.status_code == 429 and "ttft" in refused.text
    assert (reach["chat"]["feasible"], reach["absurd"]["feasible"]) == (True, False)
    assert estimate["ttft_ms"]["mean"] == pytest.approx(15, rel=0.6)
