"""`python -m hfx.serve --replicas N` as its users see it: a real server over real processes."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from .conftest import ROOT

START_S = 120.0
ASK: dict[str, Any] = {"prompt": "The capital of Japan is", "ignore_eos": True, "temperature": 0}


class Server:
    def __init__(self, *arguments: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "hfx.serve", "--port", "0", *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            cwd=ROOT,
        )
        assert self.process.stdout is not None
        self.text = ""
        while not (found := re.search(r"ready: .* at (http://\S+) after", self.text)):
            line = self.process.stdout.readline()
            assert line, f"the server has ended:\n{self.text}"
            self.text += line
        self.http = httpx.Client(base_url=found[1], timeout=120.0)

    def replicas(self) -> list[int]:
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text()
        return [int(pid) for pid in children.split()]

    def stream(self, **fields: Any) -> tuple[str, str | None]:
        """The text of a streamed answer, and what ended it."""
        text, reason = "", None
        body = {**ASK, **fields, "stream": True}
        with self.http.stream("POST", "/v1/completions", json=body) as answer:
            assert answer.status_code == 200
            for line in answer.iter_lines():
                if line.startswith("data: {"):
                    (choice,) = json.loads(line[6:])["choices"]
                    text += choice["text"]
                    reason = choice["finish_reason"] or reason
        return text, reason

    def metric(self, name: str) -> float:
        text = self.http.get("/metrics").text
        return sum(map(float, re.findall(rf"^hfx:{name}(?:{{.*}})? (\S+)$", text, re.M)))

    def stop(self) -> int:
        self.http.close()
        self.process.terminate()
        assert self.process.stdout is not None
        try:
            return self.process.wait(60)
        finally:
            self.process.kill()
            self.process.stdout.close()


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    made = Server(
        *("--device", "emulated:h100-llama3.1-8b", "--replicas", "2", "--replica-lease", "5")
    )
    try:
        yield made
    finally:
        pids = made.replicas()
        assert made.stop() == 0
        assert not any(Path(f"/proc/{pid}").exists() for pid in pids)


def test_health_says_how_many_replicas_are_ready(server: Server) -> None:
    assert server.http.get("/health").json() == {"status": "ok", "replicas": {"ready": 2}}
    assert server.http.get("/ready").status_code == 200


def test_metrics_have_a_label_for_the_replica(server: Server) -> None:
    server.stream(max_tokens=4)

    text = server.http.get("/metrics").text

    for replica in "01":
        labels = rf'model_name="[^"]+",replica="{replica}",state="ready"'
        assert re.search(rf"^hfx:replica_state{{{labels}}} 1\.0$", text, re.M)
    assert server.metric("fleet_parent_cpu_seconds_total") >= 0
    assert server.metric("request_success_total") >= 1


def test_an_estimate_comes_from_the_fleet(server: Server) -> None:
    answer = server.http.post("/v1/estimate", json={"prompt": "Hello", "max_tokens": 5}).json()

    assert answer["feasible"] and answer["ttft_ms"]["mean"] > 0


def test_an_impossible_promise_is_a_429_with_what_is_possible(server: Server) -> None:
    body = {**ASK, "slo": {"ttft_ms": 0.001, "on_miss": "refuse"}}

    answer = server.http.post("/v1/completions", json=body)

    assert answer.status_code == 429
    assert answer.json()["error"]["code"] == "slo_infeasible"
    assert answer.json()["error"]["feasible"]["ttft_ms"] > 0.001


def test_streams_survive_the_death_of_a_replica_through_http(server: Server) -> None:
    expected = server.stream(max_tokens=150)
    with ThreadPoolExecutor(8) as pool:
        answers = [pool.submit(server.stream, max_tokens=150) for _ in range(8)]
        while server.metric("replica_requests") < 8:
            time.sleep(0.01)

        os.kill(server.replicas()[0], signal.SIGKILL)

        assert [answer.result() for answer in answers] == [expected] * 8
    assert server.metric("fleet_requests_resumed_total") >= 1
    deadline_s = time.monotonic() + 60
    while server.http.get("/health").json()["replicas"] != {"ready": 2}:
        assert time.monotonic() < deadline_s
        time.sleep(0.05)


@pytest.mark.parametrize(
    ("seconds", "every_s"), [(10, 2.5), pytest.param(60, 10.0, marks=pytest.mark.slow)]
)
def test_killing_replicas_at_random_loses_repeats_and_hangs_nothing(
    tmp_path: Path, seconds: int, every_s: float
) -> None:
    file = tmp_path / "fleet.json"
    command = [sys.executable, "-m", "benchmarks.fleet", "--parts", "kills", "--json", str(file)]
    times = ["--kill-s", str(seconds), "--kill-every-s", str(every_s)]

    subprocess.run([*command, *times], cwd=ROOT, check=True, timeout=280)

    summary = json.loads(file.read_text())["summary"]
    assert summary["kills"] >= seconds / every_s - 1 and summary["requests"] == 8 * seconds
    assert (summary["lost"], summary["duplicated"], summary["hung"]) == (0, 0, 0)
