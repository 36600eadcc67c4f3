"""Runs a workload against a server: open loop by arrival times, closed loop by a limit on both."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import aiohttp

from .client import REQUEST_TIMEOUT, Outcome, Target, send
from .workload import Prompt


@dataclass(frozen=True, slots=True)
class Run:
    """Outcomes in the order of the prompts, and from first send to last answer in seconds."""

    outcomes: tuple[Outcome, ...]
    duration_s: float


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
    on_done: Callable[[Outcome], object] | None = None,
) -> Run:
    """Send every prompt; `arrivals_s` are times from the start, None is all at once.

    With `max_concurrency` at most that many requests are under way; without arrivals that is a
    closed loop of as many clients.
    """
    gate = asyncio.Semaphore(max_concurrency) if max_concurrency else contextlib.nullcontext()
    start_s = time.perf_counter()

    async def one(prompt: Prompt, due_s: float | None) -> Outcome:
        async with gate:
            outcome = await send(session, target, prompt, due_s)
        if on_done:
            on_done(outcome)
        return outcome

    tasks = []
    async with asyncio.TaskGroup() as group:
        for i, prompt in enumerate(prompts):
            due_s = None
            if arrivals_s is not None:
                due_s = start_s + arrivals_s[i]
                await asyncio.sleep(max(0.0, due_s - time.perf_counter()))
            tasks.append(group.create_task(one(prompt, due_s)))
    outcomes = tuple(task.result() for task in tasks)
    return Run(outcomes, time.perf_counter() - start_s)
