"""The application over an engine whose steps a test holds in its hand: silence, failure, death."""

import asyncio
from collections.abc import Callable
from typing import Any

import orjson
import pytest

from hfx.config import SchedulerConfig

Play = Callable[..., None]
Stage = Any


def test_a_stream_opens_before_the_first_token_and_comments_until_it_comes(play: Play) -> None:
    async def scene(stage: Stage) -> None:
        call = stage.complete(stream=True, max_tokens=1)
        await call.until(b": keep-alive\n\n: keep-alive\n\n")
        assert call.status == 200
        stage.executor.release()
        await call.until(b"[DONE]")
        assert [event["choices"][0]["text"] for event in call.events] == ["d", ""]

    play(scene, sse_keep_alive_s=0.01)


def test_comments_can_be_turned_off(play: Play) -> None:
    async def scene(stage: Stage) -> None:
        call = stage.complete(stream=True, max_tokens=1)
        await asyncio.sleep(0.1)
        stage.executor.release()
        await call.until(b"[DONE]")
        assert b"keep-alive" not in call.body

    play(scene, sse_keep_alive_s=0.0)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("n", [1, 3])
def test_a_client_that_leaves_ends_the_work(play: Play, stream: bool, n: int) -> None:
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


def test_a_failed_step_is_a_500_and_the_next_request_is_served(play: Play) -> None:
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


def test_a_row_that_fails_ends_its_stream_with_an_error_event(play: Play) -> None:
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


def test_a_dead_engine_fails_its_readers_and_the_health_check(play: Play) -> None:
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


def test_a_full_queue_is_a_429_that_says_when_to_come_back(play: Play) -> None:
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


def test_a_request_that_is_refused_in_part_leaves_nothing_behind(play: Play) -> None:
    limits = SchedulerConfig(max_num_seqs=1, max_num_queued_reqs=2)

    async def scene(stage: Stage) -> None:
        refused = stage.complete(n=8)
        await refused.answer()
        assert refused.status == 429
        await stage.idle()
        now = stage.engine.stats()
        assert now.free_blocks == now.total_blocks

    play(scene, limits=limits)


def test_loading_and_draining_are_503s_with_a_time_to_come_back(play: Play) -> None:
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


def test_a_drain_aborts_what_outlasts_it_with_an_error_event(play: Play) -> None:
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
    play: Play,
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


def test_keys_are_asked_for_except_where_operators_look(play: Play) -> None:
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


def test_a_proxys_prefix_may_be_stripped_or_not(play: Play) -> None:
    async def scene(stage: Stage) -> None:
        for path in ("/llm/version", "/version", "/llm/docs"):
            call = stage.get(path)
            await call.task
            assert call.status == 200
        schema = await stage.get("/llm/openapi.json").answer()
        assert schema["servers"] == [{"url": "/llm"}]

    play(scene, root_path="/llm", api_key=("key",))


def test_each_request_is_one_line_in_the_log_when_asked_for(
    play: Play,
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
