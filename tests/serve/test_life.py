"""A server's life as processes see it: starting, refusing, draining, being killed."""

import json
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

SMALL = ("--max-model-len", "512", "--num-blocks-override", "16", "--threads", "1")
LONG: dict[str, Any] = {
    "prompt": "Once upon a time",
    "max_tokens": 300,
    "ignore_eos": True,
    "stream": True,
}


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "hfx.serve", *arguments], capture_output=True, text=True, timeout=120
    )


def test_a_port_in_use_is_one_line_and_exit_code_2() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]

        done = run("--port", str(port))

    assert done.returncode == 2
    assert done.stderr == f"hfx: port {port} of 127.0.0.1 is in use: choose another with --port\n"


def test_what_nobody_reads_any_more_stops_nothing() -> None:
    code = "from hfx.serve.start import say\ninput()\nfor _ in range(3): say('stopped')"
    with subprocess.Popen(
        [sys.executable, "-c", code],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as talker:
        assert talker.stdout is not None
        talker.stdout.close()

        _, errors = talker.communicate("go on\n", timeout=60)

    assert (talker.returncode, errors) == (0, "")


def test_a_bad_option_is_one_line_and_exit_code_2() -> None:
    done = run("--max-num-seqs", "many")

    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "hfx: --max-num-seqs is 'many': it must be an integer of at least 1\n"


def test_an_unreadable_model_is_one_line_and_exit_code_2(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")

    done = run(str(tmp_path), "--port", "0")

    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert f"hfx: can't serve {tmp_path}: " in done.stderr.splitlines()[-1]


def first_answer(url: str) -> httpx.Response:
    """The first answer of a server that is being started."""
    for _ in range(1200):
        try:
            return httpx.get(url, timeout=30)
        except httpx.TransportError:
            time.sleep(0.05)
    raise AssertionError(f"nothing listens at {url}")


def test_a_server_answers_while_it_loads_and_streams_to_the_end_while_it_drains(
    start: Any, tmp_path: Path
) -> None:
    file = tmp_path / "serve.yaml"
    file.write_text("served-model-name: from-file\napi-key: [secret, other]\n")
    server = start(*SMALL, "--config", str(file), environment={"HFX_LOG_LEVEL": "warning"})

    # Loading: alive, not ready, and inference is asked to come back.
    loading = first_answer(f"{server.url}/ready")
    assert (loading.status_code, loading.json()["status"]) == (503, "loading")
    assert server.get("/health").status_code == 200
    key = {"Authorization": "Bearer secret"}
    early = server.post("/v1/completions", LONG, headers=key)
    assert (early.status_code, early.json()["error"]["code"]) == (503, "loading")
    assert int(early.headers["retry-after"]) >= 1

    # Ready: the file and the environment were heard, and keys are asked for.
    server.wait_for("/v1/chat/completions -H")
    assert "* served-model-name        from-file  (" in server.text
    assert "* log-level                warning  (HFX_LOG_LEVEL)" in server.text
    assert "secret" not in server.text
    for given, good in (("secret", True), ("other", True), ("wrong", False)):
        with openai.OpenAI(base_url=f"{server.url}/v1", api_key=given, max_retries=0) as client:
            if good:
                assert [model.id for model in client.models.list()] == ["from-file"]
            else:
                with pytest.raises(openai.AuthenticationError):
                    client.models.list()

    # Draining: the stream under way ends as it should, new requests are sent away.
    events: list[str] = []
    with httpx.stream(
        "POST", f"{server.url}/v1/completions", json=LONG, headers=key, timeout=120
    ) as answer:
        lines = answer.iter_lines()
        events.append(next(lines))
        server.process.send_signal(signal.SIGTERM)
        server.wait_for("draining: 1 requests")
        late = server.post("/v1/completions", LONG, headers=key)
        assert (late.status_code, late.json()["error"]["code"]) == (503, "shutting_down")
        assert int(late.headers["retry-after"]) >= 1
        assert server.get("/ready").json()["status"] == "draining"
        events += [line for line in lines if line.startswith("data: ")]

    assert events[-1] == "data: [DONE]"
    assert json.loads(events[-2][6:])["choices"][0]["finish_reason"] == "length"
    assert server.process.wait(timeout=60) == 0


def test_streams_that_outlast_the_drain_end_with_an_error_event(start: Any) -> None:
    hasty = start(*SMALL, "--shutdown-timeout", "0.2")
    hasty.wait_for("ready: ")
    bodies: list[str] = []

    def read() -> None:
        with httpx.stream("POST", f"{hasty.url}/v1/completions", json=LONG, timeout=120) as answer:
            for line in answer.iter_lines():
                bodies.append(line)

    reader = threading.Thread(target=read)
    reader.start()
    while not bodies:
        time.sleep(0.01)
    hasty.process.send_signal(signal.SIGINT)
    reader.join(timeout=60)

    assert hasty.process.wait(timeout=60) == 0
    assert any('"code":"shutting_down"' in line for line in bodies)
    assert bodies[-2:] == ["data: [DONE]", ""]


def test_a_second_signal_stops_at_once(start: Any) -> None:
    patient = start(*SMALL)
    patient.wait_for("ready: ")

    with httpx.stream("POST", f"{patient.url}/v1/completions", json=LONG, timeout=120) as answer:
        lines = answer.iter_lines()  # kept: dropping it would hang up
        next(lines)
        patient.process.send_signal(signal.SIGTERM)
        patient.wait_for("draining: 1 requests")
        patient.process.send_signal(signal.SIGTERM)
        assert patient.process.wait(timeout=10) == 1


def test_a_signal_while_loading_ends_the_start(start: Any) -> None:
    server = start(*SMALL)
    assert first_answer(f"{server.url}/health").status_code == 200

    server.process.send_signal(signal.SIGTERM)

    assert server.process.wait(timeout=30) == 0
    assert "ready: " not in server.text
