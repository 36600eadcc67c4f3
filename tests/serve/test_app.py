"""The application over an engine whose steps a test holds in its hand: silence, failure, death."""

import asyncio
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

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

    def __init__(self, app: Any, method: str, path: str, document: object = None) -> None:
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
            "query_string": b"",
            "root_path": "",
            "scheme": "http",
            "http_version": "1.1",
            "server": ("127.0.0.1", 80),
            "client": ("127.0.0.1", 1),
            "headers": [(b"content-type", b"application/json")],
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

    def __init__(self, http: HttpConfig, limits: SchedulerConfig) -> None:
        self.executor = Held()
        core = Engine(
            self.executor,
            FirstComeFirstServed(max_step_tokens=64, max_running=limits.max_num_seqs),
            BlockPool(64, 16, prefix_caching=True),
            Letters().decode,
            vocabulary=VOCABULARY,
            max_model_len=CONTEXT,
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

    def complete(self, **fields: Any) -> Call:
        document = {"prompt": "abc", "max_tokens": 3} | fields
        return Call(self.app, "POST", "/v1/completions", document)

    async def idle(self) -> None:
        """Wait until the engine holds nothing; steps may go on meanwhile."""
        async with asyncio.timeout(20):
            while (now := self.engine.stats()).running or now.waiting:
                self.executor.release()
                await asyncio.sleep(0.01)


@asynccontextmanager
async def on_stage(http: HttpConfig, limits: SchedulerConfig) -> AsyncIterator[Stage]:
    stage = Stage(http, limits)
    stage.open()
    try:
        yield stage
    finally:
        stage.executor.release(10_000)
        await asyncio.to_thread(stage.engine.close)


def play(
    scene: Callable[[Stage], Awaitable[None]], *, limits: SchedulerConfig | None = None, **http: Any
) -> None:
    """Run one scene over a fresh stage."""

    async def played() -> None:
        async with on_stage(HttpConfig(**http), limits or SchedulerConfig()) as stage:
            await scene(stage)

    asyncio.run(played())


def test_a_stream_opens_before_the_first_token_and_comments_until_it_comes() -> None:
    async def scene(stage: Stage) -> None:
        call = stage.complete(stream=True, max_tokens=1)
        await call.until(b": keep-alive\n\n: keep-alive\n\n")
        assert call.status == 200
        stage.executor.release()
        await call.until(b"[DONE]")
        assert [event["choices"][0]["text"] for event in call.events] == ["d", ""]

    play(scene, sse_keep_alive_s=0.01)


def test_comments_can_be_turned_off() -> None:
    async def scene(stage: Stage) -> None:
        call = stage.complete(stream=True, max_tokens=1)
        await asyncio.sleep(0.1)
        stage.executor.release()
        await call.until(b"[DONE]")
        assert b"keep-alive" not in call.body

    play(scene, sse_keep_alive_s=0.0)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("n", [1, 3])
def test_a_client_that_leaves_ends_the_work(stream: bool, n: int) -> None:
    async def scene(stage: Stage) -> None:
        call = stage.complete(stream=stream, n=n, max_tokens=60)
        while not stage.engine.stats().running:
            stage.executor.release()
            await asyncio.sleep(0.01)

        call.leave()
        await call.task

        await stage.idle()
        now = stage.engine.stats()
        assert now.free_blocks == now.total_blocks
        assert stage.site.lifecycle.active == 0

    play(scene)


def test_a_failed_step_is_a_500_and_the_next_request_is_served() -> None:
    async def scene(stage: Stage) -> None:
        stage.executor.failures = 1
        stage.executor.release(10)
        failed = stage.complete()
        error = (await failed.answer())["error"]
        assert (failed.status, error["type"]) == (500, "server_error")
        assert "told to fail" in error["message"]

        served = stage.complete()
        assert (await served.answer())["choices"][0]["text"] == "def"

    play(scene)


def test_a_row_that_fails_ends_its_stream_with_an_error_event() -> None:
    async def scene(stage: Stage) -> None:
        call = stage.complete(stream=True)
        stage.executor.release()
        await call.until(b"data: ")
        stage.executor.bad_rows = True
        stage.executor.release(5)
        await call.until(b"[DONE]")
        assert "no token could be drawn" in call.events[-1]["error"]["message"]
        assert call.body.endswith(b"data: [DONE]\n\n")

    play(scene)


def test_a_dead_engine_fails_its_readers_and_the_health_check() -> None:
    async def scene(stage: Stage) -> None:
        stage.executor.failures = 100
        stage.executor.release(100)
        while stage.engine.is_healthy:
            calls = [stage.complete(), stage.complete(stream=True)]
            await asyncio.gather(*(call.task for call in calls))
            assert calls[0].status == 500
            assert calls[1].events[-1]["error"]["type"] == "server_error"

        for path in ("/health", "/ready"):
            health = stage.get(path)
            assert (await health.answer())["status"] == "dead"
            assert health.status == 503
        refused = stage.complete()
        assert (await refused.answer())["error"]["code"] == "dead"
        assert refused.status == 503

    play(scene)


def test_a_full_queue_is_a_429_that_says_when_to_come_back() -> None:
    limits = SchedulerConfig(max_num_seqs=1, max_num_queued_reqs=1)

    async def scene(stage: Stage) -> None:
        taken = [stage.complete(max_tokens=60) for _ in range(2)]
        await asyncio.sleep(0.05)

        for stream in (False, True):
            refused = stage.complete(stream=stream)
            error = (await refused.answer())["error"]
            assert (refused.status, error["code"]) == (429, "queue_full")
            assert int(refused.headers["retry-after"]) >= 1
            assert "at most 1" in error["message"]
        assert b'hfx:admission_rejections_total{reason="queue_full"} 2.0' in stage.exposition

        for call in taken:
            call.leave()
            await call.task

    play(scene, limits=limits)


def test_a_request_that_is_refused_in_part_leaves_nothing_behind() -> None:
    limits = SchedulerConfig(max_num_seqs=1, max_num_queued_reqs=2)

    async def scene(stage: Stage) -> None:
        refused = stage.complete(n=8)
        await refused.answer()
        assert refused.status == 429
        await stage.idle()
        now = stage.engine.stats()
        assert now.free_blocks == now.total_blocks

    play(scene, limits=limits)


def test_loading_and_draining_are_503s_with_a_time_to_come_back() -> None:
    async def scene(stage: Stage) -> None:
        stage.site.lifecycle.phase = "loading weights 40%"
        for state, code in (("loading", "loading"), ("draining", "shutting_down")):
            stage.site.lifecycle.state = state  # type: ignore[assignment]
            refused = stage.complete()
            assert (await refused.answer())["error"]["code"] == code
            assert refused.status == 503
            assert int(refused.headers["retry-after"]) >= 1
            ready, health = stage.get("/ready"), stage.get("/health")
            assert (await ready.answer())["status"] == state
            await health.task
            assert (ready.status, health.status) == (503, 200)

    play(scene)


def test_a_drain_aborts_what_outlasts_it_with_an_error_event() -> None:
    async def scene(stage: Stage) -> None:
        streamed, whole = stage.complete(stream=True, max_tokens=60), stage.complete(max_tokens=60)
        stage.executor.release(2)
        await streamed.until(b"data: ")

        stage.site.lifecycle.state = "draining"
        draining = asyncio.ensure_future(stage.engine.drain(0.05))
        await asyncio.sleep(0.1)
        stage.executor.release(5)
        await draining

        await streamed.until(b"[DONE]")
        assert streamed.events[-1]["error"]["code"] == "shutting_down"
        assert (await whole.answer())["error"]["code"] == "shutting_down"
        assert whole.status == 503

    play(scene)


def test_an_unexpected_error_is_a_500_without_a_traceback(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def scene(stage: Stage) -> None:
        def broken() -> bytes:
            raise RuntimeError("private detail")

        monkeypatch.setattr(stage.site.metrics, "text", broken)
        call = stage.get("/metrics")
        with pytest.raises(RuntimeError):
            await call.task
        assert call.status == 500
        assert b"private detail" not in call.body
        assert call.headers["connection"] == "close"
        assert call.headers["x-request-id"] in orjson.loads(call.body)["error"]["message"]

    play(scene)


def test_keys_are_asked_for_except_where_operators_look() -> None:
    async def scene(stage: Stage) -> None:
        for path in ("/v1/models", "/tokenize", "/nowhere"):
            refused = stage.get(path)
            assert (await refused.answer())["error"]["code"] == "invalid_api_key"
            assert refused.status == 401
        for path in ("/health", "/ping", "/ready", "/version", "/metrics", "/docs"):
            call = stage.get(path)
            await call.task
            assert call.status == 200

    play(scene, api_key=("one", "two"))


def test_a_proxys_prefix_may_be_stripped_or_not() -> None:
    async def scene(stage: Stage) -> None:
        for path in ("/llm/version", "/version", "/llm/docs"):
            call = stage.get(path)
            await call.task
            assert call.status == 200
        schema = await stage.get("/llm/openapi.json").answer()
        assert schema["servers"] == [{"url": "/llm"}]

    play(scene, root_path="/llm", api_key=("key",))


def test_each_request_is_one_line_in_the_log_when_asked_for(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def scene(stage: Stage) -> None:
        with caplog.at_level("INFO", logger="hfx.serve.access"):
            await stage.get("/version").task
            await stage.get("/nowhere").task

    play(scene, log_requests=True)

    lines = [record.getMessage().split(" ", 1)[1] for record in caplog.records]
    assert [line.rsplit(" ", 2)[0] for line in lines] == [
        "GET '/version' 200",
        "GET '/nowhere' 404",
    ]
