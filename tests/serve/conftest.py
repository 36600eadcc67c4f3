"""One real server on the bundled model for the whole session, and the means to start others."""

import os
import re
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from queue import Empty, Queue

import httpx
import openai
import pytest

START_S = 120


@dataclass(slots=True)
class Running:
    """A server process, its address, and what it has printed."""

    process: subprocess.Popen[str]
    lines: "Queue[str]"
    port: int
    http: httpx.Client
    text: str = ""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def wait_for(self, mark: str) -> None:
        """Read on until a line holds `mark`."""
        while mark not in self.text:
            try:
                self.text += self.lines.get(timeout=START_S)
            except Empty:
                raise AssertionError(f"no {mark!r} within {START_S} s in:\n{self.text}") from None

    def get(self, path: str) -> httpx.Response:
        return self.http.get(path)

    def post(self, path: str, document: object, **options: object) -> httpx.Response:
        return self.http.post(path, json=document, **options)

    def metric(self, name: str) -> float:
        """The sum of a metric over all its labels."""
        found = re.findall(rf"^hfx:{name}(?:{{.*}})? (\S+)$", self.get("/metrics").text, re.M)
        assert found, f"no metric {name}"
        return sum(map(float, found))

    def stop(self) -> int:
        """Ask it to end, and insist; returns the exit code."""
        self.process.terminate()
        try:
            return self.process.wait(timeout=60)
        finally:
            self.end()

    def end(self) -> None:
        """End it at once."""
        self.http.close()
        self.process.kill()
        self.process.wait()


Start = Callable[..., Running]


def free_port() -> int:
    import socket

    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def spawn(*arguments: str, environment: dict[str, str] | None = None) -> Running:
    port = free_port()
    process = subprocess.Popen(
        [sys.executable, "-m", "hfx.serve", "--port", str(port), *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=os.environ | (environment or {}),
    )
    lines: Queue[str] = Queue()

    def drain() -> None:
        assert process.stdout is not None
        with process.stdout:
            for line in process.stdout:
                lines.put(line)
        lines.put("(the process has ended)")

    threading.Thread(target=drain, daemon=True).start()
    http = httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60)
    return Running(process, lines, port, http)


@pytest.fixture
def start() -> Iterator[Start]:
    """Start servers that end with the test; they may still be loading."""
    servers: list[Running] = []

    def started(*arguments: str, **options: dict[str, str]) -> Running:
        servers.append(spawn(*arguments, **options))
        return servers[-1]

    yield started
    for server in servers:
        server.end()


@pytest.fixture(scope="session")
def server() -> Iterator[Running]:
    """A server with a small cache, eager comments in streams, and one thread of two cores."""
    running = spawn(
        *("--max-model-len", "1024", "--num-blocks-override", "64", "--threads", "1"),
        *("--sse-keep-alive-interval", "0.05", "--max-request-bytes", "1MiB"),
        *("--served-model-name", "tiny", "--served-model-name", "team/tiny"),
        *("--allowed-origins", "https://app.example"),
    )
    try:
        running.wait_for("ready: ")
        yield running
        assert running.stop() == 0
    finally:
        running.end()


@pytest.fixture(scope="session")
def client(server: Running) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as made:
        yield made
