"""Finds the highest rate at which enough promises are kept: doubling, then bisecting.

A trial is one open-loop run at one rate. What a trial means is decided by Wilson's interval: a
rate is dropped as soon as it can't reach the goal any more, and measured again where the interval
still holds the goal. Rates are requests per second.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from .attainment import Share

STOP_Z = 2.5758293035489  # 99 %: a running trial is looked at often, so it takes more to end it
STOP_AFTER = 20  # requests: fewer say too little
DOUBLINGS = 20


@dataclass(frozen=True, slots=True)
class Trial:
    """All runs at one rate taken together. `is_cut` where one was stopped early."""

    rate: float
    kept: Share
    runs: int
    is_cut: bool

    def passes(self, goal: float) -> bool:
        return not self.is_cut and self.kept.value >= goal

    def is_clear(self, goal: float) -> bool:
        """Whether the goal lies outside the interval, or the trial was given up."""
        low, high = self.kept.interval
        return self.is_cut or not low <= goal <= high


@dataclass(frozen=True, slots=True)
class Found:
    """The highest rate that passed and the lowest that did not; 0 and inf where there is none."""

    passed: float
    failed: float
    trials: tuple[Trial, ...]


Measure = Callable[[float, int], Awaitable[tuple[Share, bool]]]


def cannot_reach(kept: Share, goal: float, requests: int) -> bool:
    """Whether a running trial of so many requests may be given up.

    Its 99 % interval must lie below the goal, and the goal be out of reach even if all that is
    still to come were kept: requests come in bursts, so that the first ones alone mislead.
    """
    is_low = kept.total >= STOP_AFTER and kept.interval_at(STOP_Z)[1] < goal
    return is_low and kept.hits + requests - kept.total < goal * requests


async def highest_rate(
    measure: Measure,
    *,
    goal: float,
    start: float,
    tolerance: float = 0.05,
    runs: int = 3,
    on_trial: Callable[[Trial], object] | None = None,
) -> Found:
    """Double (or halve) from `start` until the goal lies between two rates, then bisect.

    `measure(rate, run)` makes one run and answers how many of all requests kept their promises,
    and whether it was cut short. A rate whose interval still holds the goal is run up to `runs`
    times; then its share decides. Ends when the two rates are within `tolerance` of each other.

    Raises:
        ValueError: goal outside (0, 1), or start, tolerance or runs not above 0.
    """
    _check(goal, start, tolerance, runs)
    trials: list[Trial] = []

    async def passes(rate: float) -> bool:
        trial = await _trial(measure, rate, goal, runs)
        trials.append(trial)
        if on_trial:
            on_trial(trial)
        return trial.passes(goal)

    low, high = await _bracket(passes, start)
    while low > 0 and math.isfinite(high) and high / low > 1 + tolerance:
        middle = math.sqrt(low * high)
        low, high = (middle, high) if await passes(middle) else (low, middle)
    return Found(low, high, tuple(trials))


def _check(goal: float, start: float, tolerance: float, runs: int) -> None:
    if not 0 < goal < 1:
        raise ValueError(f"the goal is {goal}: it must lie between 0 and 1, such as 0.9")
    if not (start > 0 and math.isfinite(start)):
        raise ValueError(f"the search starts at {start} requests/s: give a finite --request-rate")
    if not tolerance > 0:
        raise ValueError(f"the tolerance is {tolerance}: it must be above 0")
    if runs < 1:
        raise ValueError(f"{runs} runs a rate: it must be at least 1")


async def _trial(measure: Measure, rate: float, goal: float, runs: int) -> Trial:
    trial = Trial(rate, Share(0, 0), 0, False)
    while trial.runs < runs and (trial.runs == 0 or not trial.is_clear(goal)):
        share, is_cut = await measure(rate, trial.runs)
        kept = Share(trial.kept.hits + share.hits, trial.kept.total + share.total)
        trial = Trial(rate, kept, trial.runs + 1, is_cut)
    return trial


async def _bracket(passes: Callable[[float], Awaitable[bool]], start: float) -> tuple[float, float]:
    """Two rates a factor of two apart, the lower one passing."""
    rate = start
    if await passes(rate):
        for _ in range(DOUBLINGS):
            if not await passes(2 * rate):
                return rate, 2 * rate
            rate *= 2
        return rate, math.inf
    for _ in range(DOUBLINGS):
        rate /= 2
        if await passes(rate):
            return rate, 2 * rate
    return 0.0, rate
