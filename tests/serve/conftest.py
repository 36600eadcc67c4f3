"""A real server on the bundled model for the whole session, the means to start others, and an
application over an engine whose steps a test holds in its hand."""

import asyncio
import os
import re
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from queue import Empty, Queue
from typing import Any

import httpx
import openai
import orjson
import pytest

from hfx.cache import BlockPool
from hfx.config import HttpConfig, SchedulerConfig, Tier
from hfx.engine import AsyncEngine, Engine, Sampled, StepBatch, StepOutput, TokenLogprob
from hfx.models.generation import GenerationDefaults
from hfx.scheduler import FirstComeFirstServed
from hfx.serve.app import application
from hfx.serve.convert import Served
from hfx.serve.metrics import EngineMetrics, HttpMetrics
from hfx.serve.middleware import KNOWN_PATHS
from hfx.serve.prompts import Prompts
from hfx.serve.site import Model, Site
from hfx.serve.tier_metrics import TierMetrics
from hfx.serve.tiers import offered

START_S = 120
# One that any machine can keep, and one that none can.
TIERS = (
    "{easy: {ttft_ms: 300000, tpot_ms: 60000, deadline_ms: 900000, weight: 2}, "
    "absurd: {ttft_ms: 0.01, tpot_ms: 0.01, may_refuse: true}}"
)


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


@pytest.fixture(scope="session")
def begin() -> Start:
    """Start a server, for fixtures that end it."""
    return spawn


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
        *("--tiers", TIERS),
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


VOCABULARY, CONTEXT = 26, 64


class Letters:
    """A tokenizer of one token per letter."""

    vocab_size = VOCABULARY

    def encode(self, text: str, add_special_tokens: bool = True) -> list[int]:
        return [ord(letter) - 97 for letter in text]

    def decode(self, ids: Any, skip_special_tokens: bool = True) -> str:
        return "".join(chr(97 + token) for token in ids)

    def token_text(self, token_id: int) -> str:
        return chr(97 + token_id)

    def token_bytes(self, token_id: int) -> bytes:
        return self.token_text(token_id).encode()


class Held:
    """An executor that says the alphabet, one letter per `release`, and fails when told to."""

    def __init__(self) -> None:
        self._permits = threading.Semaphore(0)
        self.failures = 0
        self.bad_rows = False

    def release(self, steps: int = 1) -> None:
        self._permits.release(steps)

    def execute(self, batch: StepBatch) -> StepOutput:
        self._permits.acquire()
        if self.failures:
            self.failures -= 1
            raise RuntimeError("told to fail")
        rows = batch.token_ids_T[batch.sampled_rows_R]
        return StepOutput([self._row((int(token) + 1) % VOCABULARY) for token in rows])

    def _row(self, token: int) -> Sampled:
        if self.bad_rows:
            return Sampled(-1, error="no token could be drawn")
        return Sampled(token, TokenLogprob(token, -0.5, 1))


class Call:
    """One HTTP request to the application, spoken in ASGI; `leave` hangs up."""

    def __init__(
        self,
        app: Any,
        method: str,
        path: str,
        document: object = None,
        headers: dict[str, str] | None = None,
        query: str = "",
    ) -> None:
        self.status = 0
        self.headers: dict[str, str] = {}
        self.body = b""
        self._news = asyncio.Event()
        self._gone = asyncio.Event()
        self._body: bytes | None = b"" if document is None else orjson.dumps(document)
        scope = {
            "type": "http",
            "method": method,
            "path": path,
            "raw_path": path.encode(),
            "query_string": query.encode(),
            "root_path": "",
            "scheme": "http",
            "http_version": "1.1",
            "server": ("127.0.0.1", 80),
            "client": ("127.0.0.1", 1),
            "headers": [
                (b"content-type", b"application/json"),
                *((name.encode(), value.encode()) for name, value in (headers or {}).items()),
            ],
        }
        self.task = asyncio.ensure_future(app(scope, self._receive, self._send))

    async def _receive(self) -> dict[str, Any]:
        if self._body is not None:
            body, self._body = self._body, None
            return {"type": "http.request", "body": body, "more_body": False}
        await self._gone.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message: Any) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            self.headers = {key.decode(): value.decode() for key, value in message["headers"]}
        self.body += message.get("body", b"")
        self._news.set()

    async def until(self, mark: bytes) -> None:
        """Wait until the body holds `mark`."""
        async with asyncio.timeout(20):
            while mark not in self.body:
                await self._news.wait()
                self._news.clear()

    def leave(self) -> None:
        self._gone.set()

    async def answer(self) -> Any:
        """The whole answer as JSON."""
        async with asyncio.timeout(20):
            await self.task
        return orjson.loads(self.body)

    @property
    def events(self) -> list[Any]:
        """What the stream's data lines hold, without the end mark."""
        lines = self.body.decode().split("\n\n")
        data = [line.removeprefix("data: ") for line in lines if line.startswith("data: ")]
        return [orjson.loads(one) for one in data if one != "[DONE]"]


class Stage:
    """An application, its site, its engine and the executor under it."""

    def __init__(self, http: HttpConfig, limits: SchedulerConfig, admission: Any) -> None:
        self.executor = Held()
        core = Engine(
            self.executor,
            FirstComeFirstServed(max_step_tokens=64, max_running=limits.max_num_seqs),
            BlockPool(64, 16, prefix_caching=True),
            Letters().decode,
            vocabulary=VOCABULARY,
            max_model_len=CONTEXT,
            admission=admission,
        )
        self.engine = AsyncEngine(core, limits=limits)
        self.site = Site(http, HttpMetrics(KNOWN_PATHS))
        self.app = application(self.site)

    def open(self) -> None:
        served = Served(("letters",), CONTEXT, VOCABULARY, GenerationDefaults())
        metrics = EngineMetrics(
            self.site.metrics.registry, model_name="letters", stats=self.engine.stats, cache={}
        )
        self.engine.add_observer(metrics)
        prompts = Prompts(Letters(), None, served)
        tiers = offered((Tier(name="chat", ttft_s=60.0),))
        tier_metrics = TierMetrics(self.site.metrics.registry, model_name="letters", tiers=tiers)
        self.engine.add_observer(tier_metrics)
        self.site.model = Model(
            self.engine,
            served,
            Letters(),
            prompts,
            metrics,
            tier_metrics,
            "letters",
            0,
            tiers,
            self.site.http.per_request_metrics,
        )
        self.site.lifecycle.state = "ready"

    def get(self, path: str) -> Call:
        return Call(self.app, "GET", path)

    @property
    def exposition(self) -> bytes:
        return self.site.metrics.text()

    def complete(self, headers: dict[str, str] | None = None, **fields: Any) -> Call:
        document = {"prompt": "abc", "max_tokens": 3} | fields
        return Call(self.app, "POST", "/v1/completions", document, headers)

    def estimate(self, **fields: Any) -> Call:
        return Call(self.app, "POST", "/v1/estimate", {"prompt": "abc", "max_tokens": 3} | fields)

    async def idle(self) -> None:
        """Wait until the engine holds nothing; steps may go on meanwhile."""
        async with asyncio.timeout(20):
            while (now := self.engine.stats()).running or now.waiting:
                self.executor.release()
                await asyncio.sleep(0.01)


@asynccontextmanager
async def on_stage(
    http: HttpConfig, limits: SchedulerConfig, admission: Any
) -> AsyncIterator[Stage]:
    stage = Stage(http, limits, admission)
    stage.open()
    try:
        yield stage
    finally:
        stage.executor.release(10_000)
        await asyncio.to_thread(stage.engine.close)


Scene = Callable[[Stage], Awaitable[None]]


@pytest.fixture
def play() -> Callable[..., None]:
    """Run one scene over a fresh stage: an application over an executor that the test holds."""

    def played(
        scene: Scene, *, limits: SchedulerConfig | None = None, admission: Any = None, **http: Any
    ) -> None:
        async def run() -> None:
            settings = HttpConfig(**http), limits or SchedulerConfig()
            async with on_stage(*settings, admission) as stage:
                await scene(stage)

        asyncio.run(run())

    return played
