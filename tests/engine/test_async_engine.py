"""The engine in its thread: readers get their own text, and every way out gives blocks back."""

import asyncio
import contextlib
import gc
import random
import threading
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any

import pytest

from hfx.config import SchedulerConfig
from hfx.engine import (
    AsyncEngine,
    Delta,
    EngineDead,
    EngineDraining,
    EngineFull,
    StepBatch,
    StepOutput,
    StepRecord,
)
from hfx.request import FinishReason

Make = Callable[..., Any]
Alone = Callable[..., list[int]]
TIMEOUT_S = 60.0


def in_loop(test: Coroutine[Any, Any, None]) -> None:
    async def bounded() -> None:
        await asyncio.wait_for(test, TIMEOUT_S)

    asyncio.run(bounded())


async def whole(stream: AsyncIterator[Delta]) -> Delta:
    """A request's news as one delta."""
    merged: Delta | None = None
    async for delta in stream:
        merged = merged.followed_by(delta) if merged else delta
    assert merged is not None
    return merged


async def until(condition: Callable[[], bool]) -> None:
    while not condition():
        await asyncio.sleep(0.001)


@contextlib.contextmanager
def serving(engine: Any, **limits: int) -> Any:
    """The engine in its thread; nothing may be left of any request at the end."""
    config = SchedulerConfig(**{"max_num_seqs": 8, **limits})
    asynchronous = AsyncEngine(engine, limits=config)
    try:
        yield asynchronous
    finally:
        asynchronous.close()
    engine.audit()
    assert not engine.has_work
    assert engine.stats().free_blocks == engine.stats().total_blocks


class Gate:
    """An executor that waits before every step until it is let through."""

    def __init__(self, executor: Any) -> None:
        self._executor = executor
        self._permits = threading.Semaphore(0)
        self.reached = threading.Event()

    def open(self, steps: int = 1_000_000) -> None:
        self._permits.release(min(steps, 100_000))

    def execute(self, batch: StepBatch) -> StepOutput:
        self.reached.set()
        assert self._permits.acquire(timeout=TIMEOUT_S)
        output: StepOutput = self._executor.execute(batch)
        return output


def gated(engine: Any) -> Gate:
    engine._executor = gate = Gate(engine._executor)
    return gate


def test_many_readers_each_get_what_they_get_alone(
    make_engine: Make, make_request: Make, alone: Alone
) -> None:
    async def test() -> None:
        prompts = [[(7 * i + j) % 90 for j in range(3 + i)] for i in range(20)]
        streams = [
            engine.generate(make_request(str(i), p, max_tokens=8)) for i, p in enumerate(prompts)
        ]
        for prompt, delta in zip(prompts, await asyncio.gather(*map(whole, streams)), strict=True):
            assert list(delta.token_ids) == alone(prompt, 8)
            assert delta.finish_reason is FinishReason.LENGTH

    with serving(make_engine()) as engine:
        in_loop(test())


def test_a_slow_reader_gets_all_news_at_once_and_holds_up_nobody(
    make_engine: Make, make_request: Make, alone: Alone
) -> None:
    async def test() -> None:
        slow = engine.generate(make_request("slow", [1, 2], max_tokens=20))
        quick = await whole(engine.generate(make_request("quick", [3, 4], max_tokens=30)))

        deltas = [delta async for delta in slow]

        assert quick.output_tokens == 30
        assert len(deltas) == 1 and list(deltas[0].token_ids) == alone([1, 2], 20)
        assert len(deltas[0].text) == 20

    with serving(make_engine()) as engine:
        in_loop(test())


def test_a_busy_loop_gets_one_call_for_many_steps(make_engine: Make, make_request: Make) -> None:
    async def test() -> None:
        loop = asyncio.get_running_loop()
        stream = engine.generate(make_request("r", [1], max_tokens=30))
        calls = 0
        plain = loop.call_soon_threadsafe

        def counted(*arguments: Any, **keywords: Any) -> Any:
            nonlocal calls
            calls += 1
            return plain(*arguments, **keywords)

        loop.call_soon_threadsafe = counted  # type: ignore[method-assign]
        while not any(delta.finish_reason for delta in engine._outbox._news.copy().values()):
            pass  # never gives the loop a chance
        assert engine.stats().steps == 30
        assert (await whole(stream)).output_tokens == 30
        assert calls == 1

    with serving(make_engine()) as engine:
        in_loop(test())


def test_cancelling_a_reader_aborts_its_request(make_engine: Make, make_request: Make) -> None:
    async def test() -> None:
        stream = engine.generate(make_request("r", [1]))  # kept: dropping it aborts, too
        reading = asyncio.ensure_future(whole(stream))
        await until(gate.reached.is_set)
        reading.cancel()
        with pytest.raises(asyncio.CancelledError):
            await reading
        gate.open()
        await until(lambda: not inner.has_work)

        assert inner.stats().steps == 1

    inner = make_engine()
    gate = gated(inner)
    with serving(inner) as engine:
        in_loop(test())


def test_closing_a_stream_aborts_its_request_and_frees_its_id(
    make_engine: Make, make_request: Make, alone: Alone
) -> None:
    async def test() -> None:
        async with contextlib.aclosing(engine.generate(make_request("r", [1]))) as stream:
            gate.open(1)
            first = await anext(stream)
        again = engine.generate(make_request("r", [2, 3]))
        gate.open()

        assert first.output_tokens == 1
        assert [delta async for delta in stream] == []
        assert list((await whole(again)).token_ids) == alone([2, 3], 6)

    inner = make_engine()
    gate = gated(inner)
    with serving(inner) as engine:
        in_loop(test())


def test_dropping_a_stream_aborts_its_request(make_engine: Make, make_request: Make) -> None:
    async def test() -> None:
        stream = engine.generate(make_request("r", [1]))
        await until(gate.reached.is_set)
        del stream
        gc.collect()
        gate.open()
        await until(lambda: not inner.has_work)
        await engine.drain(TIMEOUT_S)

        assert inner.stats().steps == 1

    inner = make_engine()
    gate = gated(inner)
    with serving(inner) as engine:
        in_loop(test())


def test_an_abort_by_id_is_told_to_the_reader(make_engine: Make, make_request: Make) -> None:
    async def test() -> None:
        stream = engine.generate(make_request("r", [1]))
        gate.open(1)
        await anext(stream)
        engine.abort("r")
        engine.abort("nobody")
        gate.open(1)

        assert (await whole(stream)).finish_reason is FinishReason.ABORT

    inner = make_engine()
    gate = gated(inner)
    with serving(inner) as engine:
        in_loop(test())


def test_a_full_queue_refuses_with_its_length_and_limit(
    make_engine: Make, make_request: Make
) -> None:
    async def test() -> None:
        streams = [engine.generate(make_request(str(i), [i])) for i in range(5)]
        with pytest.raises(EngineFull, match="3 requests are waiting, at most 3 may"):
            engine.generate(make_request("late", [9]))
        streams.pop().close()
        streams.append(engine.generate(make_request("now", [9])))
        gate.open()

        assert {(await whole(s)).output_tokens for s in streams} == {6}

    inner = make_engine(running=2)
    gate = gated(inner)
    with serving(inner, max_num_seqs=2, max_num_queued_reqs=3) as engine:
        in_loop(test())


def test_what_cannot_be_computed_is_refused_at_once(make_engine: Make, make_request: Make) -> None:
    async def test() -> None:
        with pytest.raises(ValueError, match="the prompt has 40 tokens"):
            engine.generate(make_request("long", [1] * 40))
        stream = engine.generate(make_request("r", [1]))
        with pytest.raises(ValueError, match="'r' is in use"):
            engine.generate(make_request("r", [1]))
        await whole(stream)

    with serving(make_engine()) as engine:
        in_loop(test())


def test_draining_refuses_new_requests_and_lets_live_ones_end(
    make_engine: Make, make_request: Make
) -> None:
    async def test() -> None:
        reading = asyncio.ensure_future(whole(engine.generate(make_request("r", [1]))))
        draining = asyncio.ensure_future(engine.drain(TIMEOUT_S))
        await asyncio.sleep(0)
        with pytest.raises(EngineDraining):
            engine.generate(make_request("late", [1]))
        assert engine.is_draining and engine.is_healthy
        gate.open()
        await draining

        assert (await reading).finish_reason is FinishReason.LENGTH

    inner = make_engine()
    gate = gated(inner)
    with serving(inner) as engine:
        in_loop(test())


def test_draining_aborts_what_outlasts_its_timeout(make_engine: Make, make_request: Make) -> None:
    async def test() -> None:
        reading = asyncio.ensure_future(whole(engine.generate(make_request("r", [1]))))
        await until(gate.reached.is_set)
        draining = asyncio.ensure_future(engine.drain(0.01))
        await asyncio.sleep(0.1)
        gate.open(1)
        await draining

        assert (await reading).finish_reason is FinishReason.ABORT

    inner = make_engine()
    gate = gated(inner)
    with serving(inner) as engine:
        in_loop(test())


def test_closing_the_engine_ends_live_requests_as_aborted(
    make_engine: Make, make_request: Make
) -> None:
    async def test() -> None:
        stream = engine.generate(make_request("r", [1]))
        gate.open(1)
        await anext(stream)
        closing = asyncio.ensure_future(asyncio.to_thread(engine.close))
        await asyncio.sleep(0.1)
        gate.open(1)
        await closing

        assert (await whole(stream)).finish_reason is FinishReason.ABORT
        assert not engine.is_healthy
        with pytest.raises(EngineDead, match="it was closed"):
            engine.generate(make_request("late", [1]))

    inner = make_engine(max_model_len=40)
    gate = gated(inner)
    with serving(inner) as engine:
        in_loop(test())


def test_every_reader_hears_of_the_death_of_the_engine(
    make_engine: Make, make_request: Make
) -> None:
    async def test() -> None:
        streams = [engine.generate(make_request(str(i), [i])) for i in range(4)]
        results = await asyncio.gather(*map(whole, streams), return_exceptions=True)

        assert [r.finish_reason for r in results[:2]] == [FinishReason.ERROR] * 2
        assert [isinstance(result, EngineDead) for result in results[2:]] == [True] * 2
        assert not engine.is_healthy
        with pytest.raises(EngineDead, match="3 steps in a row failed"):
            engine.generate(make_request("late", [1]))

    inner = make_engine(running=1)
    inner._executor.fail_steps = {1, 2, 3}
    engine = AsyncEngine(inner)
    in_loop(test())
    engine.close()
    inner.audit()


def test_observers_are_told_in_the_engines_thread(make_engine: Make, make_request: Make) -> None:
    class Observer:
        def __init__(self) -> None:
            self.threads: set[str] = set()
            self.steps = 0
            self.ends: list[str] = []

        def on_step(self, record: StepRecord) -> None:
            self.steps += 1
            self.threads.add(threading.current_thread().name)

        def on_finish(self, delta: Delta) -> None:
            self.ends.append(delta.request_id)

    async def test() -> None:
        await whole(engine.generate(make_request("r", [1])))
        assert (observer.steps, observer.ends) == (6, ["r"])
        assert observer.threads == {"hfx-engine"}

    observer = Observer()
    with serving(make_engine()) as engine:
        engine.add_observer(observer)
        in_loop(test())


def test_one_engine_serves_one_event_loop_after_another(
    make_engine: Make, make_request: Make
) -> None:
    async def test() -> None:
        assert (await whole(engine.generate(make_request("r", [1])))).output_tokens == 6

    async def leave_unread() -> None:
        engine.generate(make_request("left", [1], max_tokens=30))
        kept.append(engine.generate(make_request("kept", [1], max_tokens=30)))

    kept: list[Any] = []
    with serving(make_engine()) as engine:
        in_loop(test())
        in_loop(leave_unread())
        in_loop(test())


def test_a_soak_with_random_aborts_ends_with_every_block_free(
    make_engine: Make, make_request: Make, alone: Alone
) -> None:
    chance = random.Random(0)

    async def client(index: int) -> None:
        prompt = [chance.randrange(3) for _ in range(chance.randrange(1, 24))]
        output = chance.randrange(1, 14)
        patience = chance.choice([None, None, 1, 3])
        stream = engine.generate(make_request(str(index), prompt, max_tokens=output))
        tokens: list[int] = []
        async for delta in stream:
            tokens += delta.token_ids
            if patience is not None and len(tokens) >= patience:
                stream.close()
        expected = alone(prompt, output)
        assert tokens == (expected if patience is None else expected[: len(tokens)])

    async def test() -> None:
        clients = []
        for index in range(200):
            clients.append(asyncio.ensure_future(client(index)))
            if chance.random() < 0.3:
                await asyncio.sleep(chance.random() / 500)
            if chance.random() < 0.1:
                chance.choice(clients).cancel()
        results = await asyncio.gather(*clients, return_exceptions=True)
        failures = [r for r in results if isinstance(r, BaseException)]
        assert all(isinstance(failure, asyncio.CancelledError) for failure in failures), failures

    with serving(make_engine(blocks=12)) as engine:
        in_loop(test())
