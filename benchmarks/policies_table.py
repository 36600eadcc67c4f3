"""Figures of points from kept runs: means over seeds, intervals, a table that a person reads."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from .policies_cases import CLAIRVOYANT, FLUID, OWN
from .policies_plan import Point, Suite
from .policies_store import Store

RESAMPLED = 10_000
CUMULATIVE = "attainment_cumulative_"
LEAST_LOSS = 0.0005  # of the joint share: what is printed as lost


@dataclass(frozen=True, slots=True)
class Outcome:
    """What every policy kept at a point, one entry of `runs` for each seed."""

    point: Point
    runs: dict[str, list[dict[str, float]]]

    def mean(self, policy: str, name: str = "joint") -> float:
        """Over seeds."""
        return float(np.mean([run[name] for run in self.runs[policy]]))

    def worst_class(self, policy: str, prefix: str = "of_feasible_") -> tuple[str, float]:
        """The class that fares worst in the mean over seeds."""
        names = sorted({n for run in self.runs[policy] for n in run if n.startswith(prefix)})
        names = [name for name in names if not name.startswith(CUMULATIVE)]
        found = {
            name.removeprefix(prefix): float(
                np.mean([run[name] for run in self.runs[policy] if name in run])
            )
            for name in names
        }
        worst = min(found, key=lambda name: found[name])
        return worst, found[worst]

    @property
    def best(self) -> str:
        """The baseline that keeps most."""
        names = [name for name in self.runs if name not in (OWN, CLAIRVOYANT, FLUID)]
        return max(names, key=self.mean)

    @property
    def lead(self) -> float:
        """Of our policy before the best baseline."""
        return self.mean(OWN) - self.mean(self.best)

    def interval(self, policy: str) -> tuple[float, float]:
        """Of the mean joint share: 95 % of what resampled seeds give."""
        return bootstrap([run["joint"] for run in self.runs[policy]])

    def lead_interval(self) -> tuple[float, float]:
        """Of `lead`, seed by seed, since seeds are paired."""
        pairs = zip(self.runs[OWN], self.runs[self.best], strict=True)
        return bootstrap([own["joint"] - best["joint"] for own, best in pairs])


def bootstrap(values: Sequence[float]) -> tuple[float, float]:
    """The 2.5 % and 97.5 % quantiles of the mean of values drawn with replacement."""
    rng = np.random.default_rng(0)
    drawn = rng.choice(np.asarray(values), (RESAMPLED, len(values)))
    low, high = np.quantile(drawn.mean(axis=1), (0.025, 0.975))
    return float(low), float(high)


def outcome(store: Store, suite: Suite, point: Point, names: Sequence[str], data: str) -> Outcome:
    """A point's runs, all of which have been run."""
    runs: dict[str, list[dict[str, float]]] = {}
    for name in names:
        found = [store.find(case) for case in point.cases(suite, name, data)]
        runs[name] = [figures for figures in found if figures is not None]
        assert len(runs[name]) == suite.seeds, f"{name} at {point} has not been run"
    return Outcome(point, runs)


def plain(one: Outcome) -> dict[str, Any]:
    """A point as JSON holds it."""
    point = one.point
    policies = {}
    for name, runs in one.runs.items():
        shared = set.intersection(*(set(run) for run in runs))
        figures: dict[str, Any] = {key: one.mean(name, key) for key in sorted(shared)}
        policies[name] = {**figures, "joint_95": one.interval(name)}
    lead = {"lead": one.lead, "lead_95": one.lead_interval(), "best_baseline": one.best}
    return {
        "mix": point.group.mix,
        "cv": point.group.cv,
        "replicas": point.group.replicas,
        "is_mixed": point.group.is_mixed,
        "slo_scale": point.scale,
        "load": point.load,
        "rate": point.rate,
        "seconds": point.seconds,
        **lead,
        "policies": policies,
    }


def lines(outcomes: Sequence[Outcome]) -> Iterator[str]:
    """For each group and scale a block: policies down, loads across, the worst class behind."""
    blocks: dict[tuple[object, float], list[Outcome]] = {}
    for one in outcomes:
        blocks.setdefault((one.point.group, one.point.scale), []).append(one)
    for (group, scale), block in blocks.items():
        yield ""
        yield f"{group}, SLO x{scale:g}: promises kept in %, the worst class in brackets"
        cells = [f"{one.point.load:g} ({one.point.rate:g}/s)" for one in block]
        yield f"  {'load (arrivals)':28}" + "".join(f"{cell:>17}" for cell in cells)
        for name in block[0].runs:
            yield f"  {name:28}" + "".join(f"{_cell(one, name):>17}" for one in block)
        alone = (f"{one.mean(OWN, 'joint_of_feasible') * 100:>17.1f}" for one in block)
        yield f"  {'hfx, of feasible alone':28}" + "".join(alone)
        leads = (f"{one.lead * 100:>+17.1f}" for one in block)
        yield f"  {'hfx - best baseline':28}" + "".join(leads)


def _cell(one: Outcome, name: str) -> str:
    mark = "*" if name == one.best else ""
    return f"{mark}{one.mean(name) * 100:.1f} ({one.worst_class(name, 'attainment_')[1] * 100:.0f})"


def losses(outcomes: Sequence[Outcome]) -> Iterator[str]:
    """Where our policy does not win."""
    lost = [one for one in outcomes if one.lead < -LEAST_LOSS]
    yield ""
    yield f"hfx is behind the best baseline at {len(lost)} of {len(outcomes)} points:"
    for one in sorted(lost, key=lambda one: one.lead):
        low, high = (edge * 100 for edge in one.lead_interval())
        yield (
            f"  {one.lead * 100:+.1f} points (95 %: {low:+.1f} to {high:+.1f}) behind {one.best}: "
            f"{one.point}"
        )
