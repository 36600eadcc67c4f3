"""A fleet offers what one engine does, over many replicas; no torch where none is needed."""

import asyncio
import contextlib
import os
from pathlib import Path

import pytest

from hfx.config import CacheConfig, EngineConfig, SchedulerConfig
from hfx.engine.delta import Delta
from hfx.engine.errors import EngineDead, EngineDraining, EngineFull, Infeasible
from hfx.engine.observe import StepRecord
from hfx.request import FinishReason

from .conftest import EMULATED, ask, in_loop, running, until, whole


def test_sixteen_emulated_replicas_start_and_serve_without_torch() -> None:
    async def test() -> None:
        async with running(16, lease_s=20.0) as fleet:
            got = await asyncio.gather(
                *(whole(fleet.generate(ask(f"r{n}", tokens=8))) for n in range(64))
            )

            assert {delta.output_tokens for delta in got} == {8}
            pids = [m.life.handle.pid for m in fleet.members if m.life and m.life.handle]
            assert len(set(pids)) == 16
            for pid in pids:
                assert "libtorch" not in Path(f"/proc/{pid}/maps").read_text()
            served = {m.life.sent > 0 for m in fleet.members if m.life}
            assert served == {True}  # work is spread

    in_loop(test())


def test_readers_that_go_away_free_what_they_held() -> None:
    async def test() -> None:
        async with running(2) as fleet:
            stream = fleet.generate(ask("a", tokens=5000))
            await anext(stream)
            stream.close()

            task = asyncio.ensure_future(whole(fleet.generate(ask("b", tokens=5000))))
            await until(lambda: fleet.desk.flights.get("b") and fleet.desk.flights["b"].output)
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task

            fleet.generate(ask("c", tokens=5000))  # nobody keeps the stream
            await until(lambda: not fleet.desk.flights)
            await until(lambda: fleet.stats().running == 0)
            assert fleet.stats().free_blocks == fleet.stats().total_blocks

    in_loop(test())


def test_an_aborted_request_gets_a_last_delta_that_says_so() -> None:
    async def test() -> None:
        async with running(1) as fleet:
            stream = fleet.generate(ask("a", tokens=5000))
            first = await anext(stream)

            fleet.abort("a")
            rest = await whole(stream)

            assert first.finish_reason is None
            assert rest.finish_reason is FinishReason.ABORT
            with pytest.raises(StopAsyncIteration):
                await anext(stream)

    in_loop(test())


def test_a_reader_that_is_slow_holds_nobody_back_and_misses_nothing() -> None:
    async def test() -> None:
        async with running(1) as fleet:
            slow = fleet.generate(ask("slow", tokens=60))
            expected = await whole(fleet.generate(ask("quick", tokens=60)))

            got = await whole(slow)  # read only now: all of it is one delta

            assert got.token_ids == expected.token_ids and got.text == expected.text

    in_loop(test())


def test_the_queue_has_a_limit_and_ids_of_live_requests_differ() -> None:
    async def test() -> None:
        limits = SchedulerConfig(max_num_seqs=1, max_num_batched_tokens=64, max_num_queued_reqs=2)
        engine = EngineConfig(
            device=EMULATED.device, cache=CacheConfig(num_blocks_override=64), scheduler=limits
        )
        async with running(1, engine=engine) as fleet:
            streams = [fleet.generate(ask(f"r{n}", tokens=50)) for n in range(3)]

            with pytest.raises(EngineFull, match="2 requests are waiting"):
                fleet.generate(ask("more"))
            streams[2].close()
            with pytest.raises(ValueError, match="request id 'r0' is in use"):
                fleet.generate(ask("r0"))
            with pytest.raises(ValueError, match="the prompt has 4096 tokens"):
                fleet.generate(ask("long", prompt=(5,) * 4096))

    in_loop(test())


def test_a_promise_that_no_replica_can_keep_is_refused_before_any_work() -> None:
    async def test() -> None:
        async with running(2) as fleet:
            hopeless = ask("a", objective={"ttft_s": 1e-6, "on_miss": "refuse"})
            easy = ask("b", objective={"ttft_s": 60.0, "tpot_s": 10.0, "on_miss": "refuse"})

            with pytest.raises(Infeasible) as caught:
                await fleet.admit([easy, hopeless])
            (stream,) = await fleet.admit([easy])
            end = await whole(stream)

            assert caught.value.refused.feasible["ttft_s"] > 1e-6
            assert end.finish_reason is FinishReason.LENGTH
            assert end.account is not None and end.account.outlook is not None
            outlook, refused = await fleet.foresee(ask("c", objective={"ttft_s": 60.0}))
            assert refused is None and outlook is not None and outlook.ttft_s.mean_s > 0

    in_loop(test())


def test_a_hard_deadline_ends_a_request_that_waits_for_a_replica() -> None:
    async def test() -> None:
        async with running(1) as fleet:
            fleet.drain_replica(0)
            request = ask("a", objective={"deadline_s": 0.2, "on_miss": "refuse"})
            (stream,) = await fleet.admit([request])

            assert (await whole(stream)).finish_reason is FinishReason.EXPIRED

    in_loop(test())


def test_draining_lets_live_requests_end_and_takes_no_new_ones() -> None:
    async def test() -> None:
        async with running(2) as fleet:
            short, long = (fleet.generate(ask(id, tokens=n)) for id, n in (("s", 20), ("l", 9000)))
            reading = [asyncio.ensure_future(whole(each)) for each in (short, long)]
            await until(lambda: all(f.output for f in fleet.desk.flights.values()))

            draining = asyncio.ensure_future(fleet.drain(1.0))
            await asyncio.sleep(0)

            with pytest.raises(EngineDraining):
                fleet.generate(ask("new"))
            await draining
            ends = [(await each).finish_reason for each in reading]
            assert ends == [FinishReason.LENGTH, FinishReason.ABORT]

    in_loop(test())


def test_closing_ends_readers_with_an_error() -> None:
    async def test() -> None:
        async with running(1) as fleet:
            reading = asyncio.ensure_future(whole(fleet.generate(ask("a", tokens=9000))))
            await until(lambda: fleet.desk.flights["a"].output)
            fleet.close()

            with pytest.raises(EngineDead, match="closed"):
                await reading
            with pytest.raises(EngineDead):
                fleet.generate(ask("b"))

    in_loop(test())


def test_every_replica_is_replaced_without_losing_a_request() -> None:
    async def test() -> None:
        async with running(2) as fleet:
            expected = await whole(fleet.generate(ask("alone", tokens=100)))
            reading = [
                asyncio.ensure_future(whole(fleet.generate(ask(f"r{n}", tokens=100))))
                for n in range(8)
            ]

            await fleet.restart_all()

            got = await asyncio.gather(*reading)
            assert {delta.token_ids for delta in got} == {expected.token_ids}
            assert [m.epoch for m in fleet.members] == [2, 2]
            assert fleet.phases() == {"ready": 2}
            assert not any(m.deaths for m in fleet.members)

    in_loop(test())


def test_a_fleet_grows_and_shrinks_while_it_serves() -> None:
    async def test() -> None:
        async with running(1) as fleet:
            reading = [
                asyncio.ensure_future(whole(fleet.generate(ask(f"r{n}", tokens=200))))
                for n in range(4)
            ]
            await fleet.resize(3)
            await until(lambda: fleet.phases() == {"ready": 3})
            await fleet.resize(1)

            got = await asyncio.gather(*reading)
            assert {delta.output_tokens for delta in got} == {200}
            assert [m.id for m in fleet.members] == [0]
            await fleet.resize(2)
            await until(lambda: fleet.phases() == {"ready": 2})

    in_loop(test())


def test_a_prompt_goes_where_its_prefix_is() -> None:
    async def test() -> None:
        async with running(2, dispatch="prefix_affinity") as fleet:
            prompt = tuple(range(10, 10 + 600))
            await whole(fleet.generate(ask("first", prompt=prompt)))
            await until(lambda: fleet.stats().running == 0)

            got = [await whole(fleet.generate(ask(f"r{n}", prompt=prompt))) for n in range(4)]

            assert {delta.cached_tokens for delta in got} == {576}

    in_loop(test())


def test_observers_hear_of_steps_and_ends_of_all_replicas() -> None:
    steps: list[StepRecord] = []
    ends: list[Delta] = []

    class Watching:
        def on_step(self, record: StepRecord) -> None:
            steps.append(record)

        def on_finish(self, delta: Delta) -> None:
            ends.append(delta)

    async def test() -> None:
        async with running(2) as fleet:
            fleet.add_observer(Watching())
            got = await asyncio.gather(
                *(whole(fleet.generate(ask(f"r{n}", tokens=10))) for n in range(6))
            )

            await until(lambda: sum(step.mix.decodes for step in steps) == 6 * 9)
            assert {delta.request_id for delta in ends} == {delta.request_id for delta in got}
            assert all(delta.account and delta.account.first.total_s > 0 for delta in ends)
            assert all(step.predicted is not None for step in steps)

    in_loop(test())


def test_heterogeneous_replicas_have_their_own_prices() -> None:
    async def test() -> None:
        devices = ("emulated:h100-llama3.1-8b", "emulated:910b-like-qwen3-8b")
        engines = [EngineConfig(device=d, cache=EMULATED.cache) for d in devices]
        async with running(2, engine_of=lambda id: engines[id]) as fleet:
            costs = [m.standing.profile for m in fleet.members if m.standing]

            assert [cost.key.device for cost in costs if cost] == ["h100-sxm", "910b-like"]
            assert (await whole(fleet.generate(ask("a")))).output_tokens == 16

    in_loop(test())


def test_nothing_is_left_of_a_fleet_in_the_file_system() -> None:
    async def test() -> None:
        async with running(1) as fleet:
            folder = Path(fleet._roster._endpoint.removeprefix("ipc://")).parent
            assert folder.stat().st_mode & 0o077 == 0  # nobody else may speak for a replica
        assert not os.path.exists(folder)

    in_loop(test())
