"""Runs points of a scenario in processes of their own; a process ends when the one above is gone.

Results come back in whatever order they are done: they depend on their point alone.
"""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator, Sequence
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess

from .scenario import Point, Run, Scenario

Tell = Callable[[Point, int, int], None]  # a point, requests more, requests in all
_Message = Run | Exception | tuple[int, int]


def run_all(scenario: Scenario, points: Sequence[Point], jobs: int, tell: Tell) -> Iterator[Run]:
    """Every point's run as it is done, in up to `jobs` processes, or here where that is 1.

    Raises:
        ValueError: a setting is impossible; the message says which.
        RuntimeError: a process died.
    """
    if min(jobs, len(points)) > 1:
        yield from _in_processes(scenario, points, min(jobs, len(points)), tell)
        return
    for point in points:
        yield scenario.run(point, lambda more, total, point=point: tell(point, more, total))  # type: ignore[misc]


def _in_processes(
    scenario: Scenario, points: Sequence[Point], jobs: int, tell: Tell
) -> Iterator[Run]:
    left = list(reversed(points))
    at: dict[Connection, Point] = {}
    workers: list[BaseProcess] = []
    try:
        for _ in range(jobs):
            worker, pipe = _started(scenario)
            workers.append(worker)
            at[pipe] = left.pop()
            pipe.send(at[pipe])
        while at:
            ready = set(wait(list(at)))
            for pipe in [pipe for pipe in at if pipe in ready]:
                message = _received(pipe, at[pipe])
                if isinstance(message, tuple):
                    tell(at[pipe], *message)
                    continue
                yield message
                del at[pipe]
                if left:
                    at[pipe] = left.pop()
                    pipe.send(at[pipe])
                else:
                    pipe.close()
    finally:
        for worker in workers:
            worker.terminate()
            worker.join()


def _received(pipe: Connection, point: Point) -> Run | tuple[int, int]:
    try:
        message: _Message = pipe.recv()
    except EOFError:
        raise RuntimeError(
            f"the process that simulated {point} died: if memory ran out, give fewer --jobs; what "
            "is done is kept, and the same command goes on from there"
        ) from None
    if isinstance(message, Exception):
        raise message
    return message


def _started(scenario: Scenario) -> tuple[BaseProcess, Connection]:
    context = get_context("spawn")  # a fork would hold the other end of everybody's pipe open
    ours, theirs = context.Pipe()
    worker = context.Process(target=work, args=(scenario, theirs), daemon=True)
    worker.start()
    theirs.close()
    return worker, ours


def work(scenario: Scenario, pipe: Connection) -> None:
    """What a process does: points in, how they go and what comes of them out."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the one above hears it, and ends this one
    try:
        while True:
            point: Point = pipe.recv()
            try:
                pipe.send(scenario.run(point, lambda more, total: pipe.send((more, total))))
            except (ValueError, RuntimeError) as error:
                pipe.send(error)
    except (EOFError, BrokenPipeError, ConnectionResetError):
        return  # the one above is done, or gone
