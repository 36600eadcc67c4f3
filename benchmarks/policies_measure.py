"""Every run of a suite, in stages: load 1 of each group, all points, rates with 90 %."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from . import policies_capacity
from .policies_plan import ABSOLUTE_POLICIES, Group, Suite, absolute, points, policies
from .policies_pool import Pool
from .policies_summary import summary
from .policies_table import Outcome, outcome


@dataclass(frozen=True, slots=True)
class Found:
    """What a suite found. `load_1` is each group's rate at load 1, `rates` those with 90 and 99 %
    joint by SLO scale and policy."""

    outcomes: list[Outcome]
    absolute: list[Outcome]
    load_1: dict[Group, float]
    rates: policies_capacity.Capacities
    summary: dict[str, float]


def measure(pool: Pool, suite: Suite, data: str) -> Found:
    """Run what has not been run yet.

    Raises:
        ValueError: see `policies_capacity.calibrate`.
    """
    load_1 = policies_capacity.calibrate(pool, suite, data)
    chosen, names = list(points(suite, load_1)), policies(suite)
    cases = [case for point in chosen for name in names for case in point.cases(suite, name, data)]
    fixed = absolute(suite)
    for point in fixed:
        for name in ABSOLUTE_POLICIES[point.rate]:
            cases += point.cases(suite, name, data)
    pool.run(cases, "policies")
    outcomes = [outcome(pool.store, suite, point, names, data) for point in chosen]
    at_28, at_32 = (
        outcome(pool.store, suite, point, ABSOLUTE_POLICIES[point.rate], data) for point in fixed
    )
    rates = policies_capacity.capacities(pool, suite, outcomes, data)
    figures = summary(outcomes, at_28, at_32, policies_capacity.ratios(rates, "rate90"))
    return Found(outcomes, [at_28, at_32], load_1, rates, figures)


def plain(found: Found) -> list[dict[str, Any]]:
    """Rows of the JSON beside the points themselves."""
    load_1 = {str(group): rate for group, rate in found.load_1.items()}
    fixed = [
        {
            "rate": one.point.rate,
            "seconds": one.point.seconds,
            "policies": {
                name: {key: one.mean(name, key) for key in ("joint", "worst_class", "ttft_mean_s")}
                for name in one.runs
            },
        }
        for one in found.absolute
    ]
    return [
        {"part": "load 1", "rates": load_1},
        {"part": "M1, N=4, fixed rates", "points": fixed},
        {"part": "rates with 90 and 99 %", **policies_capacity.plain(found.rates)},
    ]
