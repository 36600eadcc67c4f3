"""Replicas that die, stop, stall, slow down or are cut off: no request is lost, none told twice."""

import asyncio
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from hfx.engine.delta import Delta
from hfx.engine.errors import EngineNotReady
from hfx.fleet import Fleet
from hfx.request import FinishReason

from .builders import POISON
from .conftest import ROOT, ask, in_loop, kill, running, serving, until, whole


async def alone(fleet: Fleet, tokens: int = 40) -> Delta:
    """What a request gets when nothing happens."""
    return await whole(fleet.generate(ask("alone", tokens=tokens)))


def once(tokens: int, act: "object") -> "object":
    """Do something once, when a request has so many tokens."""
    done = False

    def on(so_far: Delta) -> None:
        nonlocal done
        if not done and so_far.output_tokens >= tokens:
            done = True
            act()  # type: ignore[operator]

    return on


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_a_killed_or_stopped_replicas_request_ends_as_if_nothing_had_happened(
    number: signal.Signals,
) -> None:
    async def test() -> None:
        async with running(2, lease_s=2.0) as fleet:
            expected = await alone(fleet)
            act = once(10, lambda: kill(serving(fleet), number))

            got = await whole(fleet.generate(ask("a", tokens=40)), act)  # type: ignore[arg-type]

            assert got.token_ids == expected.token_ids
            assert got.text == expected.text
            assert got.output_tokens == 40 and got.finish_reason is FinishReason.LENGTH
            assert fleet.desk.resumed == 1
            await until(lambda: fleet.phases() == {"ready": 2})
            assert sorted(m.epoch for m in fleet.members) == [1, 2]

    in_loop(test())


@pytest.mark.slow
def test_many_requests_survive_the_death_of_every_replica_in_turn() -> None:
    async def test() -> None:
        async with running(2) as fleet:
            expected = await alone(fleet, 60)
            streams = [fleet.generate(ask(f"r{n}", tokens=60)) for n in range(24)]
            reading = [asyncio.ensure_future(whole(stream)) for stream in streams]
            for member in fleet.members:
                await until(lambda member=member: member.phase == "ready")
                kill(member)
                await until(lambda member=member: member.epoch > 1 and member.phase == "ready")

            got = await asyncio.gather(*reading)

            assert {delta.token_ids for delta in got} == {expected.token_ids}
            assert {delta.text for delta in got} == {expected.text}
            assert not fleet.desk.flights

    in_loop(test())


def test_requests_wait_while_no_replica_is_there_and_are_answered_when_one_is() -> None:
    async def test() -> None:
        async with running(1) as fleet:
            stream = fleet.generate(ask("a", tokens=30))
            reading = asyncio.ensure_future(whole(stream))
            await until(lambda: fleet.desk.flights["a"].output)
            kill(fleet.members[0])
            await until(lambda: not fleet.desk.ready)

            late = await whole(fleet.generate(ask("late")))

            assert late.finish_reason is FinishReason.LENGTH
            assert (await reading).output_tokens == 30

    in_loop(test())


def test_requests_do_not_wait_for_ever() -> None:
    async def test() -> None:
        async with running(1, hold_s=0.2) as fleet:
            fleet.drain_replica(0)

            with pytest.raises(EngineNotReady, match=r"no replica has been ready for 0\.2 s"):
                await whole(fleet.generate(ask("a")))

            fleet.undrain_replica(0)
            assert (await whole(fleet.generate(ask("b")))).output_tokens == 16

    in_loop(test())


def test_a_request_that_kills_replicas_is_answered_with_an_error_after_two() -> None:
    async def test() -> None:
        async with running(3, builder="mortal") as fleet:
            others = [fleet.generate(ask(f"r{n}", tokens=200)) for n in range(6)]
            reading = [asyncio.ensure_future(whole(stream)) for stream in others]
            await until(lambda: all(f.output for f in fleet.desk.flights.values()))

            end = await whole(fleet.generate(ask("poison", prompt=(5, POISON, 6))))

            assert end.finish_reason is FinishReason.ERROR
            assert "every replica that computed this request has died" in (end.error or "")
            got = await asyncio.gather(*reading)
            assert {delta.output_tokens for delta in got} == {200}
            assert {delta.finish_reason for delta in got} == {FinishReason.LENGTH}
            assert sum(sum(m.deaths.values()) for m in fleet.members) in (2, 3, 4)

    in_loop(test())


def test_a_slow_replica_is_noticed_and_gets_less_work() -> None:
    async def test() -> None:
        slow = {0: {"HFX_TEST_WRAPS": "1"}, 1: {"HFX_TEST_WRAPS": "0"}}
        async with running(2, builder="slow", env=lambda id: slow[id]) as fleet:
            served = {0: 0, 1: 0}

            async def one(n: int) -> None:
                stream = fleet.generate(ask(f"r{n}", prompt=tuple(range(8, 600)), tokens=8))
                await asyncio.sleep(0)
                flight = fleet.desk.flights[f"r{n}"]
                await until(lambda: flight.member is not None or flight.last is not None)
                if n >= 60 and flight.member is not None:
                    served[flight.member.id] += 1
                await whole(stream)

            tasks = []
            for n in range(140):
                tasks.append(asyncio.ensure_future(one(n)))
                await asyncio.sleep(0.03)
            await asyncio.gather(*tasks)

            assert fleet.members[0].is_slow and not fleet.members[1].is_slow
            assert served[1] > 2 * served[0]

    in_loop(test())


def test_a_replica_out_of_memory_loses_no_request(tmp_path: Path) -> None:
    async def test() -> None:
        files = [tmp_path / "0", tmp_path / "1"]
        env = [{"HFX_TEST_FILE": str(file)} for file in files]
        async with running(2, builder="out_of_memory", env=lambda id: env[id]) as fleet:
            files[0].touch()

            got = await asyncio.gather(*(whole(fleet.generate(ask(f"r{n}"))) for n in range(12)))

            assert {delta.finish_reason for delta in got} == {FinishReason.LENGTH}
            assert {delta.output_tokens for delta in got} == {16}

    in_loop(test())


def test_a_step_that_does_not_end_is_ended_with_its_replica(tmp_path: Path) -> None:
    async def test() -> None:
        file = tmp_path / "stuck"
        env = {"HFX_TEST_FILE": str(file)}
        async with running(1, builder="stuck", env=lambda _: env, step_timeout_s=1.0) as fleet:
            file.touch()
            stream = fleet.generate(ask("a"))
            await until(lambda: fleet.members[0].epoch > 1 or fleet.members[0].life is None)
            file.unlink()

            assert (await whole(stream)).output_tokens == 16
            assert "a step takes more than 1 s" in fleet.members[0].last_death

    in_loop(test())


def test_a_crash_loop_opens_its_circuit_and_the_others_go_on() -> None:
    async def test() -> None:
        async with running(1) as fleet:
            spec_of = fleet._roster._spec_of
            fleet._roster._spec_of = lambda id: replace(
                spec_of(id), builder="tests.fleet.builders:crashing"
            )
            await fleet.resize(2)

            await until(lambda: fleet.phases().get("open") == 1)

            assert fleet.members[1].deaths == {"exit": 5}
            assert fleet.members[1].last_death == "exit code 9"
            assert (await whole(fleet.generate(ask("a")))).output_tokens == 16

    in_loop(test())


def test_an_impossible_setting_is_told_as_one_engine_tells_it() -> None:
    async def test() -> None:
        with pytest.raises(ValueError, match="threads is 0: it must be at least 1"):
            async with running(1, builder="impossible"):
                pass

    in_loop(test())


PARENT = """
import asyncio, sys
from tests.fleet.conftest import running, ask
async def main():
    async with running(2) as fleet:
        fleet.generate(ask("a", tokens=5000))
        print(*(m.life.handle.pid for m in fleet.members), flush=True)
        await asyncio.sleep(600)
asyncio.run(main())
"""


@pytest.mark.parametrize("stopped", [False, True])
def test_a_parents_death_leaves_no_process(stopped: bool) -> None:
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT], stdout=subprocess.PIPE, cwd=ROOT, text=True
    )
    assert parent.stdout is not None
    pids = [int(pid) for pid in parent.stdout.readline().split()]
    if stopped:
        os.kill(pids[0], signal.SIGSTOP)

    parent.kill()
    parent.wait()
    parent.stdout.close()

    deadline_s = time.monotonic() + 30
    while any(Path(f"/proc/{pid}").exists() and _is_alive(pid) for pid in pids):
        assert time.monotonic() < deadline_s, "a replica has outlived its parent"
        time.sleep(0.02)


def _is_alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"
