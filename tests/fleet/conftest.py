"""Fleets of real processes on an emulated device, and the means to harm them."""

import asyncio
import contextlib
import os
import signal
from collections.abc import AsyncIterator, Callable, Coroutine
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from hfx.config import CacheConfig, EngineConfig, FleetConfig
from hfx.engine.delta import Delta
from hfx.fleet import Fleet, Launcher, ReplicaSpec
from hfx.fleet.member import Member
from hfx.request import Objective, Request, Sampling

ROOT = Path(__file__).parents[2]
TIMEOUT_S = 120.0
LAUNCH: Callable[[], Launcher] | None = None  # what launches fleets; None: processes of this host
EMULATED = EngineConfig(
    device="emulated:h100-llama3.1-8b", cache=CacheConfig(num_blocks_override=512)
)


def in_loop(test: Coroutine[Any, Any, None]) -> None:
    async def bounded() -> None:
        await asyncio.wait_for(test, TIMEOUT_S)

    asyncio.run(bounded())


async def until(condition: Callable[[], Any], timeout_s: float = 60.0) -> None:
    """Wait for what must come to be."""
    async with asyncio.timeout(timeout_s):
        while not condition():
            await asyncio.sleep(0.01)


async def whole(stream: AsyncIterator[Delta], on: Callable[[Delta], None] | None = None) -> Delta:
    """A request's news as one delta; `on` sees each as it comes."""
    merged: Delta | None = None
    async for delta in stream:
        merged = merged.followed_by(delta) if merged else delta
        if on is not None:
            on(merged)
    assert merged is not None
    return merged


def ask(id: str, prompt: tuple[int, ...] = (5, 6, 8), tokens: int = 16, **fields: Any) -> Request:
    """A request; fields of its objective and of itself."""
    sampling = fields.pop("sampling", Sampling(max_tokens=tokens, temperature=0.0))
    objective = Objective(**fields.pop("objective", {}))
    return Request(id=id, prompt_token_ids=prompt, sampling=sampling, objective=objective, **fields)


def serving(fleet: Fleet) -> Member:
    """A replica that has a request."""
    return next(m for m in fleet.members if m.standing and m.standing.flights)


def kill(member: Member, number: signal.Signals = signal.SIGKILL) -> None:
    assert member.life is not None and member.life.handle is not None
    pid = member.life.handle.pid
    assert pid is not None
    os.kill(pid, number)


@contextlib.asynccontextmanager
async def running(
    replicas: int = 2,
    *,
    builder: str | None = None,
    env: Callable[[int], dict[str, str]] = lambda _: {},
    engine: EngineConfig = EMULATED,
    engine_of: Callable[[int], EngineConfig] | None = None,
    launcher: Launcher | None = None,
    **config: Any,
) -> AsyncIterator[Fleet]:
    """A fleet whose replicas are ready; all its processes are gone at the end."""

    def spec_of(replica_id: int) -> ReplicaSpec:
        spec = ReplicaSpec(
            replica_id=replica_id,
            engine=engine_of(replica_id) if engine_of else engine,
            env={"PYTHONPATH": str(ROOT)} | env(replica_id),
            log_level="error",
        )
        return spec if builder is None else replace(spec, builder=f"tests.fleet.builders:{builder}")

    # A lease that a busy machine does not break by itself.
    if launcher is None and LAUNCH is not None:
        launcher = await asyncio.to_thread(LAUNCH)
    settings = FleetConfig(replicas=replicas, **{"lease_s": 5.0, **config})
    fleet = await Fleet.launch(settings, engine, spec_of=spec_of, launcher=launcher)
    pids: list[int] = []
    try:
        await until(lambda: fleet.phases() == {"ready": replicas})
        yield fleet
    finally:
        handles = [m.life.handle for m in fleet.members if m.life and m.life.handle]
        pids = [handle.pid for handle in handles if handle.pid is not None]  # None: not begun
        fleet.close()
    for pid in pids:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)
