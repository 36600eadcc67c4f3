"""Fair timing of several ways to do the same thing: taking turns, medians. Seconds."""

import statistics
import time
from collections.abc import Callable, Mapping

# An OpenMP thread spins for some 10 ms after its region. A way whose threads are others would be
# timed on the cores that the way before it left over: a turn's beginning is not timed.
SETTLE_S = 2e-2
SLOW_S = 0.1  # a way that takes longer than this hardly notices


def medians_s(
    ways: Mapping[str, Callable[[], object]],
    *,
    rounds: int,
    least_s: float = 2e-3,
    settle_s: float = SETTLE_S,
) -> dict[str, float]:
    """The median time of one call of each way.

    The ways take turns, so that a change of the machine's speed meets all of them. In a turn, each
    is repeated for `settle_s` untimed, once at least, and then until `least_s` has passed.
    """
    first_s = {name: _once_s(way, 1) for name, way in ways.items()}
    repeats = {name: max(1, round(least_s / time_s)) for name, time_s in first_s.items()}
    samples: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, way in ways.items():
            if first_s[name] < SLOW_S:
                settle(way, settle_s)
            samples[name].append(_once_s(way, repeats[name]))
    return {name: statistics.median(times) for name, times in samples.items()}


def settle(way: Callable[[], object], settle_s: float = SETTLE_S) -> None:
    """Repeat a way until what ran before it has let go of the cores."""
    until_s = time.perf_counter() + settle_s
    way()
    while time.perf_counter() < until_s:
        way()


def _once_s(way: Callable[[], object], repeats: int) -> float:
    start_s = time.perf_counter()
    for _ in range(repeats):
        way()
    return (time.perf_counter() - start_s) / repeats
