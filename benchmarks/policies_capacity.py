"""Rates by search: load 1 of every group, and the rates with 90 and 99 % joint of every policy."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from hfx.cost import named
from hfx.simulate.limits_clairvoyant import work_s

from .policies_cases import CLAIRVOYANT, FLUID, OWN, PROFILE, Case, traffic_of
from .policies_plan import LEVEL, REFERENCE, Group, Point, Suite, case
from .policies_pool import Pool
from .policies_rates import Search, rate_at
from .policies_store import Store
from .policies_table import Outcome

Capacities = dict[float, dict[str, dict[str, float | None]]]  # by SLO scale, policy, kind

STRICT = 0.99
GUESS_SHARE = 0.8  # of a fleet's time that is work at load 1
NEAR = 0.92  # of the best baseline's rate: whose rate is looked for more closely
NARROW = 1.06
REFINEMENTS = 2


def calibrate(pool: Pool, suite: Suite, data: str) -> dict[Group, float]:
    """The rate of each group at which `REFERENCE` keeps 90 % at SLO scale 1.

    Raises:
        ValueError: no rate does; the mix asks for what that fleet can't do.
    """
    searches = {
        group: Search(LEVEL, _guess(group, data), most=suite.questions) for group in suite.groups
    }
    rates = {group: search.start for group, search in searches.items()}
    while asked := {g: rate for g, s in searches.items() if (rate := s.ask()) is not None}:
        cases = {
            group: _reference(suite, group, rate, suite.seconds(searches[group].start), data)
            for group, rate in asked.items()
        }
        pool.run([one for some in cases.values() for one in some], "calibration")
        for group, rate in asked.items():
            searches[group].tell(rate, _joint(pool.store, cases[group]))
    for group, search in searches.items():
        if search.rate is None:
            raise ValueError(
                f"{REFERENCE} keeps 90 % of {group} at no rate down to {min(search.known):g}/s"
            )
        rates[group] = float(f"{search.rate:.4g}")
    return rates


def _guess(group: Group, data: str) -> float:
    """From the work that a request is."""
    traffic = traffic_of(Case(REFERENCE, group.mix, 1.0, 1.0, 1, 10.0, 0, 50.0, data))
    mean_s = float(np.mean([work_s(job, named(PROFILE)) for job in traffic.jobs]))
    return GUESS_SHARE * group.replicas / mean_s


def _reference(suite: Suite, group: Group, rate: float, seconds: float, data: str) -> list[Case]:
    return [case(group, REFERENCE, 1.0, rate, seconds, seed, data) for seed in range(suite.seeds)]


def _joint(store: Store, cases: Sequence[Case]) -> float:
    shares = [figures["joint"] for one in cases if (figures := store.find(one)) is not None]
    assert len(shares) == len(cases)
    return float(np.mean(shares))


def capacities(pool: Pool, suite: Suite, outcomes: Sequence[Outcome], data: str) -> Capacities:
    """Of the first group: by SLO scale and policy, the highest rates that keep 90 and 99 %.

    Read off the loads that were run, then measured more closely for our policy and for baselines
    that come near the best.
    """
    found: Capacities = {}
    for scale in suite.groups[0].scales:
        block = [one for one in outcomes if one.point.group is suite.groups[0]]
        block = [one for one in block if one.point.scale == scale]
        known = _known(block)
        for _ in range(REFINEMENTS):
            _refine(pool, suite, block[0].point, known, data)
        found[scale] = {
            name: {"rate90": rate_at(rates, LEVEL), "rate99": rate_at(rates, STRICT)}
            for name, rates in known.items()
        }
    return found


def _known(block: Sequence[Outcome]) -> dict[str, dict[float, float]]:
    names = [name for name in block[0].runs if name not in (CLAIRVOYANT, FLUID)]
    return {name: {one.point.rate: one.mean(name) for one in block} for name in names}


def _refine(
    pool: Pool, suite: Suite, like: Point, known: dict[str, dict[float, float]], data: str
) -> None:
    """One more rate for whoever needs it."""
    rates = {name: rate_at(shares, LEVEL) or 0.0 for name, shares in known.items()}
    best = max((rate for name, rate in rates.items() if name != OWN), default=0.0)
    asked: dict[str, list[Case]] = {}
    for name, shares in known.items():
        search = Search(LEVEL, like.rate, NARROW, known=dict(shares))
        rate = search.ask()
        if rate is not None and (name == OWN or rates[name] >= NEAR * best):
            point = Point(like.group, like.scale, 0.0, rate, like.seconds)
            asked[name] = point.cases(suite, name, data)
    pool.run([one for cases in asked.values() for one in cases], "rates with 90 %")
    for name, cases in asked.items():
        known[name][cases[0].rate] = _joint(pool.store, cases)


def ratios(found: Capacities, key: str) -> dict[float, float]:
    """Our rate over the best baseline's, by SLO scale; NaN where one of the two is unknown."""
    out = {}
    for scale, by_policy in found.items():
        own = by_policy[OWN][key]
        best = max((r[key] or 0.0 for name, r in by_policy.items() if name != OWN), default=0.0)
        out[scale] = own / best if own and best else float("nan")
    return out


def plain(found: Capacities) -> dict[str, Any]:
    """As JSON holds it."""
    rates = {f"slo x{scale:g}": by_policy for scale, by_policy in found.items()}
    over = {
        key: {f"slo x{s:g}": r for s, r in ratios(found, key).items()}
        for key in ("rate90", "rate99")
    }
    return {"rates": rates, "hfx_over_best_baseline": over}
