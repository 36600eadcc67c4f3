"""The summary of the policy benchmark, by the names of its targets. Shares, ratios, seconds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from .policies_cases import CLAIRVOYANT, FLUID, OWN
from .policies_plan import COLLAPSING, REFERENCE
from .policies_table import Outcome

HEAVY = 1.15  # the load at which gaps are looked at
NAN = float("nan")


def summary(
    outcomes: Sequence[Outcome], at_28: Outcome, at_32: Outcome, rates: Mapping[float, float]
) -> dict[str, float]:
    """Every figure that comes of runs; `rates` are those with 90 % at SLO scales 1.0 and 0.6,
    ours over the best baseline's.

    Gaps are summed over points before they are divided, since one may be next to nothing; the
    clairvoyant is held to where we are furthest from it.
    """
    heavy = [one for one in outcomes if one.point.load == HEAVY]
    full = [one for one in outcomes if one.point.load == 1.0 and one.point.scale == 1.0]
    gap = sum(one.mean(CLAIRVOYANT) - one.mean(one.best) for one in heavy)
    return {
        "baseline_ll_fcfs_2048_28": at_28.mean(REFERENCE),
        "baseline_rr_fcfs_512_28": at_28.mean(COLLAPSING),
        "worst_joint_minus_best": min((one.lead for one in outcomes), default=NAN),
        "gap_closed_1.15": sum(one.lead for one in heavy) / gap if gap > 0 else NAN,
        "fraction_of_clairvoyant_1.15": min(
            (one.mean(OWN) / one.mean(CLAIRVOYANT) for one in heavy), default=NAN
        ),
        "collapse_gain_vs_rr": at_32.mean(OWN) / at_32.mean(COLLAPSING),
        "ttft_vs_rr": 1 - at_32.mean(OWN, "ttft_mean_s") / at_32.mean(COLLAPSING, "ttft_mean_s"),
        "worst_class_1.0": min((one.worst_class(OWN)[1] for one in full), default=NAN),
        "fraction_of_fluid_limit_1.15": min(
            (one.mean(OWN) / one.mean(FLUID) for one in heavy), default=NAN
        ),
        "rate90_vs_best": rates.get(1.0, NAN),
        "rate90_vs_best_tight": rates.get(0.6, NAN),
    }
