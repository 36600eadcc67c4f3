"""Changes of a whole fleet that can't be carried out: they stop, say why, and lose nothing."""

import asyncio
from dataclasses import replace

import pytest

from hfx.config import EngineConfig, FleetConfig
from hfx.fleet.change import Busy, NotUp
from hfx.fleet.placing import has_room

from .conftest import ask, in_loop, running, until, whole


def test_a_restart_stops_where_a_process_does_not_come_up_and_the_others_stay() -> None:
    async def test() -> None:
        async with running(2) as fleet:
            good = fleet._roster._spec_of

            def bad(replica_id: int):  # the spare is well, the first successor is not
                builder = "tests.fleet.builders:crashing"
                spec = good(replica_id)
                return replace(spec, builder=builder) if replica_id == 0 else spec

            fleet._roster._spec_of = bad
            reading = [
                asyncio.ensure_future(whole(fleet.generate(ask(f"r{n}", tokens=100))))
                for n in range(6)
            ]

            with pytest.raises(NotUp, match="replica 0 does not come up: exit code 9"):
                await fleet.restart_all(drain_s=0.1)

            assert {delta.output_tokens for delta in await asyncio.gather(*reading)} == {100}
            change = fleet.last_restart
            assert change is not None and (change.state, change.done) == ("failed", [])
            assert "replica 0 does not come up" in change.error
            assert [m.id for m in fleet.members] == [0, 1] and fleet.members[1].epoch == 1
            fleet._roster._spec_of = good
            fleet.undrain_replica(0)
            await until(lambda: fleet.phases() == {"ready": 2})
            await fleet.restart_all()
            assert fleet.last_restart.state == "done"

    in_loop(test())


def test_a_spare_that_does_not_come_up_stops_a_restart_before_anything_is_touched() -> None:
    async def test() -> None:
        async with running(1) as fleet:
            good = fleet._roster._spec_of
            fleet._roster._spec_of = lambda id: replace(
                good(id), builder="tests.fleet.builders:crashing"
            )

            with pytest.raises(NotUp, match="replica 1 does not come up"):
                await fleet.restart_all()

            await until(lambda: [m.id for m in fleet.members] == [0])
            assert fleet.members[0].epoch == 1
            assert (await whole(fleet.generate(ask("a")))).output_tokens == 16

    in_loop(test())


def test_a_fleet_without_room_for_a_spare_waits_for_the_only_replica(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("hfx.fleet.operated.has_room", lambda *_: False)

    async def test() -> None:
        async with running(1) as fleet:
            expected = await whole(fleet.generate(ask("alone", tokens=60)))
            reading = [
                asyncio.ensure_future(whole(fleet.generate(ask(f"r{n}", tokens=60))))
                for n in range(4)
            ]
            await until(lambda: fleet.stats().running)

            await fleet.restart_all()

            got = await asyncio.gather(*reading)
            assert {delta.token_ids for delta in got} == {expected.token_ids}
            assert fleet.members[0].epoch == 2 and not fleet.members[0].deaths

    in_loop(test())


def test_only_one_change_is_under_way_and_what_can_not_be_changes_nothing() -> None:
    async def test() -> None:
        async with running(1) as fleet:
            with pytest.raises(ValueError, match="replicas is 0"):
                fleet.begin_resize(0)
            good = fleet._roster._spec_of

            def few(replica_id: int):
                if replica_id > 1:
                    raise ValueError("no device is left")
                return good(replica_id)

            fleet._roster._spec_of = few
            with pytest.raises(ValueError, match="no device is left"):
                await fleet.resize(4)
            assert fleet.change is None and [m.id for m in fleet.members] == [0]
            change = fleet.begin_resize(2)
            with pytest.raises(Busy, match="a resize is under way"):
                fleet.begin_restart()
            await until(lambda: change.state == "done")
            await until(lambda: fleet.phases() == {"ready": 2})

    in_loop(test())


def test_a_spare_needs_a_device_that_nobody_has(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1,2")
    gpus, fleet = EngineConfig(device="cuda"), FleetConfig()

    assert has_room(2, fleet, gpus) and not has_room(3, fleet, gpus)
    assert not has_room(2, fleet, EngineConfig(device="cpu"))
    assert has_room(2, fleet, EngineConfig(device="emulated:h100-llama3.1-8b"))
    assert not has_room(2, FleetConfig(launcher="ray"), gpus)
