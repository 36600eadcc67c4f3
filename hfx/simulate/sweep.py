"""Runs of a scenario over policies, rates and seeds: those that are known are not run again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from .ledger import Ledger
from .pool import run_all
from .progress import Progress
from .scenario import Point, Run, Scenario


@dataclass(frozen=True, slots=True)
class Swept:
    """Every point's run, in order of the points; `resumed` of them were known."""

    runs: tuple[Run, ...]
    resumed: int


def points(policies: Sequence[str], rates: Sequence[float | None], seeds: range) -> list[Point]:
    """Rate by rate, seed by seed, policy by policy, each once."""
    every = [Point(policy, rate, seed) for rate in rates for seed in seeds for policy in policies]
    return list(dict.fromkeys(every))


def sweep(
    scenario: Scenario,
    points: Sequence[Point],
    *,
    jobs: int = 1,
    ledger: Path | None = None,
    is_quiet: bool = True,
) -> Swept:
    """Run them in up to `jobs` processes; the figures are the same however many.

    `ledger` is a file of finished runs, where this looks first and adds to.

    Raises:
        ValueError: a setting is impossible; the message says which.
        RuntimeError: a process died, or a policy does nothing although there is work.
    """
    with Ledger(ledger, scenario) as book:
        known = book.known(points)
        resumed = len(known)
        left = [point for point in points if point not in known]
        with Progress(scenario, left, is_quiet=is_quiet) as progress:
            for run in run_all(scenario, left, jobs, progress.tell):
                book.add(run)
                known[run.point] = run
                progress.end(run.point)
    return Swept(tuple(known[point] for point in points), resumed)
