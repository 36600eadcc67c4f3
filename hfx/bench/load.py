"""Runs a workload against a server: open loop by arrival times, closed loop by a limit on both."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass

import aiohttp

from .client import REQUEST_TIMEOUT, Target, send
from .outcome import Outcome
from .workload import Prompt

HEARTBEAT_S = 0.02  # how often the client looks whether it is late itself


@dataclass(frozen=True, slots=True)
class Run:
    """Outcomes in the order of the prompts, and from first send to last answer in seconds.

    An outcome is None where the run was stopped before that request was due or answered.
    `loop_lags_s` is by how much each heartbeat of this client came late.
    """

    asked: tuple[Outcome | None, ...]
    start_s: float
    duration_s: float
    loop_lags_s: tuple[float, ...] = ()

    @property
    def outcomes(self) -> tuple[Outcome, ...]:
        """What was answered, in order."""
        return tuple(outcome for outcome in self.asked if outcome is not None)


def open_session() -> aiohttp.ClientSession:
    """A session without a limit on connections, which would be a hidden queue."""
    return aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0), timeout=REQUEST_TIMEOUT)


async def run_load(
    session: aiohttp.ClientSession,
    target: Target,
    prompts: Sequence[Prompt],
    *,
    arrivals_s: Sequence[float] | None = None,
    max_concurrency: int | None = None,
    on_done: Callable[[int, Outcome], object] | None = None,
    stop: asyncio.Event | None = None,
) -> Run:
    """Send every prompt; `arrivals_s` are times from the start, None is all at once.

    With `max_concurrency` at most that many requests are under way; without arrivals that is a
    closed loop of as many clients. Arrivals need not be in order. `on_done` is told the prompt's
    place and its outcome. Once `stop` is set nothing more is sent and what is under way is
    abandoned.
    """
    gate = asyncio.Semaphore(max_concurrency) if max_concurrency else contextlib.nullcontext()
    start_s = time.perf_counter()

    async def one(i: int) -> Outcome:
        due_s = None
        if arrivals_s is not None:
            due_s = start_s + arrivals_s[i]
            await asyncio.sleep(max(0.0, due_s - time.perf_counter()))
        async with gate:
            outcome = await send(session, target, prompts[i], due_s)
        if on_done:
            on_done(i, outcome)
        return outcome

    async with _heartbeat() as lags_s:
        tasks = [asyncio.create_task(one(i)) for i in range(len(prompts))]
        try:
            await _finished(tasks, stop)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
    asked = tuple(None if task.cancelled() else task.result() for task in tasks)
    return Run(asked, start_s, time.perf_counter() - start_s, tuple(lags_s))


async def _finished(tasks: Sequence[asyncio.Task[Outcome]], stop: asyncio.Event | None) -> None:
    """Wait for every task, for the first that raises, or for `stop`."""
    if stop is None:
        await asyncio.gather(*tasks)
        return
    everything = asyncio.gather(*tasks)
    stopped = asyncio.create_task(stop.wait())
    try:
        await asyncio.wait((everything, stopped), return_when=asyncio.FIRST_COMPLETED)
        if everything.done():
            everything.result()
        else:
            everything.cancel()
            await asyncio.gather(everything, return_exceptions=True)
    finally:
        stopped.cancel()


@contextlib.asynccontextmanager
async def _heartbeat() -> AsyncIterator[list[float]]:
    """Lags of a timer in this event loop: what waits for the loop waits as long."""
    lags_s: list[float] = []

    async def beat() -> None:
        while True:
            due_s = time.perf_counter() + HEARTBEAT_S
            await asyncio.sleep(HEARTBEAT_S)
            lags_s.append(max(0.0, time.perf_counter() - due_s))

    task = asyncio.create_task(beat())
    try:
        yield lags_s
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
