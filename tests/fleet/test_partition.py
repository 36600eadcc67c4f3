"""A replica that is cut off: real sockets, with a relay between that stops passing bytes on."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Literal

import pytest

from hfx.fleet import Handle, LocalLauncher, ReplicaSpec
from hfx.request import FinishReason

from .conftest import ask, in_loop, running, until, whole

Way = Literal["both", "up", "down"]


class Relay:
    """Passes connections on; `cut` ways pass nothing any more, and nobody is told."""

    def __init__(self) -> None:
        self.cut: set[str] = set()
        self.port = 0
        self.target = 0
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    async def open(self) -> None:
        self._server = await asyncio.start_server(self._connected, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]

    async def close(self) -> None:
        assert self._server is not None
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there_reader, there_writer = await asyncio.open_connection("127.0.0.1", self.target)
        for way, source, sink in (
            ("up", reader, there_writer),
            ("down", there_reader, writer),
        ):
            task = asyncio.ensure_future(self._pass_on(way, source, sink))
            self._tasks.add(task)

    async def _pass_on(
        self, way: str, source: asyncio.StreamReader, sink: asyncio.StreamWriter
    ) -> None:
        with suppress(OSError):
            while data := await source.read(65536):
                if way not in self.cut:
                    sink.write(data)
                    await sink.drain()
            sink.close()


class Relayed(LocalLauncher):
    """Replicas of odd ids connect through the relay, but only with their first process."""

    def __init__(self, relay: Relay) -> None:
        super().__init__()
        self._relay = relay

    @property
    def endpoint(self) -> str:
        return "tcp://127.0.0.1:*"

    def reachable(self, bound: str) -> str:
        self._relay.target = int(bound.rpartition(":")[2])
        return bound

    def start(self, spec: ReplicaSpec) -> Handle:
        if spec.replica_id == 1 and spec.epoch == 1:
            endpoint = f"tcp://127.0.0.1:{self._relay.port}"
            spec = spec.begun(spec.epoch, spec.token, endpoint, spec.key)
        return super().start(spec)


@asynccontextmanager
async def relayed() -> AsyncIterator[Relay]:
    relay = Relay()
    await relay.open()
    try:
        yield relay
    finally:
        await relay.close()


@pytest.mark.parametrize("way", ["both", "up", "down"])
def test_a_replica_that_is_cut_off_is_noticed_and_its_requests_go_on(way: Way) -> None:
    async def test() -> None:
        async with (
            relayed() as relay,
            running(2, launcher=Relayed(relay), lease_s=2.0) as fleet,
        ):
            expected = await whole(fleet.generate(ask("alone", tokens=60)))
            streams = [fleet.generate(ask(f"r{n}", tokens=60)) for n in range(8)]
            reading = [asyncio.ensure_future(whole(stream)) for stream in streams]
            cut_off = fleet.members[1]
            await until(lambda: cut_off.standing and cut_off.standing.flights)

            relay.cut |= {"up", "down"} if way == "both" else {way}
            late = [asyncio.ensure_future(whole(fleet.generate(ask(f"l{n}")))) for n in range(4)]
            got = await asyncio.gather(*reading)

            assert {delta.token_ids for delta in got} == {expected.token_ids}
            assert {delta.text for delta in got} == {expected.text}
            assert {d.finish_reason for d in await asyncio.gather(*late)} == {FinishReason.LENGTH}
            await until(lambda: cut_off.epoch == 2 and cut_off.phase == "ready")

    in_loop(test())
