"""Replicas as actors of a real Ray cluster: a head and two nodes, which are killed too."""

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from importlib.util import find_spec
from typing import Any

import pytest

from hfx.config import FleetConfig
from hfx.fleet import Fleet
from hfx.fleet.member import Member
from hfx.fleet.ray_launch import RayLauncher, RayProcess

from . import conftest
from .conftest import ROOT, ask, in_loop, kill, running, serving, until, whole
from .ray_cluster import Cluster, cmdline, descendants, is_alive, parent_of
from .test_faults import (  # noqa: F401  (these run on Ray too)
    test_a_crash_loop_opens_its_circuit_and_the_others_go_on,
    test_a_killed_or_stopped_replicas_request_ends_as_if_nothing_had_happened,
    test_a_replica_out_of_memory_loses_no_request,
    test_a_request_that_kills_replicas_is_answered_with_an_error_after_two,
    test_a_step_that_does_not_end_is_ended_with_its_replica,
    test_an_impossible_setting_is_told_as_one_engine_tells_it,
    test_many_requests_survive_the_death_of_every_replica_in_turn,
    test_requests_wait_while_no_replica_is_there_and_are_answered_when_one_is,
)
from .test_fleet import test_every_replica_is_replaced_without_losing_a_request  # noqa: F401
from .test_resume import test_a_real_models_replica_is_killed_and_nobody_sees_it  # noqa: F401
from .test_server import Server

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(find_spec("ray") is None, reason="needs Ray: pip install -e '.[ray]'"),
    pytest.mark.usefixtures("on_ray"),
]


@pytest.fixture(scope="module")
def started() -> Iterator[Cluster]:
    cluster = Cluster()
    try:
        yield cluster
    finally:
        cluster.close()


@pytest.fixture
def cluster(started: Cluster, monkeypatch: pytest.MonkeyPatch) -> Cluster:
    """With two nodes, and with what proves us to it in the environment."""
    for name, value in started.env.items():
        monkeypatch.setenv(name, value)
    started.have(2)
    return started


@pytest.fixture
def on_ray(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Fleets of this module's tests are the cluster's, and leave nothing there."""
    monkeypatch.setattr(conftest, "LAUNCH", lambda: RayLauncher.connect(cluster.address))
    yield
    raylets = [node.raylet for node in cluster.nodes]
    deadline_s = time.monotonic() + 30
    while found := [p for pid in raylets for p in descendants(pid) if _is_ours(p)]:
        assert time.monotonic() < deadline_s, [cmdline(pid) for pid in found]
        time.sleep(0.05)


def _is_ours(pid: int) -> bool:
    return "ray::Keeper" in cmdline(pid) or "hfx.fleet.replica" in cmdline(pid)


def actor_of(member: Member) -> int:
    """The process of a replica's actor; its own parent is its node's raylet."""
    assert member.life is not None and isinstance(member.life.handle, RayProcess)
    assert member.life.handle.pid is not None
    return parent_of(member.life.handle.pid)


@asynccontextmanager
async def harmed(replicas: int, act: Callable[[Fleet], None]) -> AsyncIterator[Fleet]:
    """A fleet to which something happens while a request is served, whose reader sees nothing."""
    async with running(replicas, lease_s=2.0) as fleet:
        expected = await whole(fleet.generate(ask("alone", tokens=500)))
        reading = asyncio.ensure_future(whole(fleet.generate(ask("a", tokens=500))))
        await until(lambda: "a" in fleet.desk.flights and len(fleet.desk.flights["a"].output) > 9)

        await asyncio.to_thread(act, fleet)

        got = await reading
        assert (got.token_ids, got.text) == (expected.token_ids, expected.text)
        assert fleet.desk.resumed == 1
        yield fleet


def test_a_killed_actor_takes_its_replica_along_and_the_request_goes_on() -> None:
    def kill_actor(fleet: Fleet) -> None:
        os.kill(actor_of(serving(fleet)), signal.SIGKILL)

    async def test() -> None:
        async with harmed(2, kill_actor) as fleet:
            await until(lambda: fleet.phases() == {"ready": 2})
            (why,) = [m.last_death for m in fleet.members if m.epoch == 2]
            assert "actor" in why

    in_loop(test())


def test_a_stopped_actor_does_not_keep_its_replica_from_being_replaced() -> None:
    async def test() -> None:
        async with running(1, lease_s=2.0) as fleet:
            (member,) = fleet.members
            os.kill(actor_of(member), signal.SIGSTOP)
            kill(member, signal.SIGSTOP)

            await until(lambda: fleet.phases() == {"ready": 1} and member.epoch == 2)

            assert (await whole(fleet.generate(ask("b")))).output_tokens == 16

    in_loop(test())


def test_a_killed_nodes_requests_go_on_and_its_replicas_move_to_the_node_that_is_left(
    cluster: Cluster,
) -> None:
    def kill_node(fleet: Fleet) -> None:
        cluster.kill(parent_of(actor_of(serving(fleet))))

    async def test() -> None:
        async with harmed(2, kill_node) as fleet:
            await until(lambda: fleet.phases() == {"ready": 2})
            assert {parent_of(actor_of(m)) for m in fleet.members} == {cluster.nodes[0].raylet}

    in_loop(test())


def test_replicas_for_which_no_node_has_room_wait_and_say_for_what(
    cluster: Cluster, caplog: pytest.LogCaptureFixture
) -> None:
    async def test() -> None:
        async with running(4, lease_s=2.0) as fleet:
            expected = await whole(fleet.generate(ask("alone", tokens=500)))
            streams = [fleet.generate(ask(f"r{n}", tokens=500)) for n in range(16)]
            reading = [asyncio.ensure_future(whole(stream)) for stream in streams]
            await until(lambda: all(flight.output for flight in fleet.desk.flights.values()))

            await asyncio.to_thread(cluster.kill, cluster.nodes[0].raylet)

            got = await asyncio.gather(*reading)
            assert {(one.token_ids, one.text) for one in got} == {
                (expected.token_ids, expected.text)
            }
            await until(
                lambda: (
                    sorted(m.phase for m in fleet.members) == ["ready"] * 2 + ["starting"] * 2
                    and all(m.loading.startswith("1 CPU") for m in fleet.members if m.loading)
                    and any(m.loading for m in fleet.members)
                )
            )
            assert (await whole(fleet.generate(ask("a")))).output_tokens == 16

            await asyncio.to_thread(cluster.grow)

            await until(lambda: fleet.phases() == {"ready": 4})
            assert "waits for 1 CPU that others use now on the 2 nodes" in caplog.text

    in_loop(test())


def test_a_lost_owner_of_the_actors_is_replaced_and_no_request_is_lost() -> None:
    async def test() -> None:
        def kill_owner(fleet: Fleet) -> None:
            launcher = fleet._roster._launcher
            assert isinstance(launcher, RayLauncher)
            os.kill(launcher._driver._process.pid, signal.SIGKILL)

        async with harmed(2, kill_owner) as fleet:
            await until(lambda: fleet.phases() == {"ready": 2})
            assert [m.epoch for m in fleet.members] == [2, 2]

    in_loop(test())


PARENT = """
import asyncio, sys
from hfx.fleet.ray_launch import RayLauncher
from tests.fleet.conftest import running, ask
async def main():
    async with running(2, launcher=RayLauncher.connect(sys.argv[1])) as fleet:
        fleet.generate(ask("a", tokens=5000))
        owner = fleet._roster._launcher._driver._process.pid
        print(owner, *(m.life.handle.pid for m in fleet.members), flush=True)
        await asyncio.sleep(600)
asyncio.run(main())
"""


def test_a_parents_death_leaves_no_actor_no_replica_and_no_owner(cluster: Cluster) -> None:
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT, cluster.address],
        stdout=subprocess.PIPE,
        cwd=ROOT,
        text=True,
    )
    assert parent.stdout is not None
    owner, *pids = (int(pid) for pid in parent.stdout.readline().split())
    actors = [parent_of(pid) for pid in pids]
    os.kill(pids[0], signal.SIGSTOP)

    parent.kill()
    parent.wait()
    parent.stdout.close()

    deadline_s = time.monotonic() + 30
    while left := [cmdline(pid) for pid in (owner, *pids, *actors) if is_alive(pid)]:
        assert time.monotonic() < deadline_s, left
        time.sleep(0.05)


@pytest.mark.parametrize("address", ["ours", "none"])
def test_the_server_serves_from_ray_and_leaves_nothing(cluster: Cluster, address: str) -> None:
    arguments = ("--device", "emulated:h100-llama3.1-8b", "--replicas", "2", "--launcher", "ray")
    server = Server(*arguments, "--ray-address", {"ours": cluster.address}.get(address, address))
    try:
        pids = descendants(server.process.pid)
        assert server.http.get("/health").json()["replicas"] == {"ready": 2}
        assert server.stream(max_tokens=8)[1] == "length"
    finally:
        assert server.stop() == 0

    assert not any(is_alive(pid) for pid in pids)


def test_a_cluster_that_refuses_us_is_an_error_that_says_so(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_AUTH_TOKEN", "0" * 64)

    with pytest.raises(ValueError, match=r"no Ray cluster was found at .*RAY_AUTH_TOKEN"):
        RayLauncher.connect(cluster.address)


def test_a_fleet_on_ray_is_asked_for_by_its_configuration(cluster: Cluster) -> None:
    async def test() -> None:
        config = FleetConfig(launcher="ray", ray_address=cluster.address)
        fleet: Any = await Fleet.launch(config, conftest.EMULATED)
        try:
            assert fleet.phases() == {"ready": 1}
            assert fleet._roster._endpoint.startswith("tcp://")
        finally:
            fleet.close()

    in_loop(test())
