"""What a run amounts to: promises kept by both rules, by class and by the worst class; times; cost.

Shares are over all arrivals: a request that was refused or served late has missed. Seconds.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from math import inf

import numpy as np

from .fleet import Result
from .job import Fate

Summary = dict[str, float]
Curves = dict[str, dict[str, list[float]]]

ALL = "all"  # classes together
STEPS = 100  # of a distribution


def summarize(
    result: Result, horizon_s: float, *, feasible: frozenset[str] | None = None
) -> Summary:
    """The figures of a run, all of them the same for the same input: no wall times.

    `horizon_s` is how long requests arrived. Mean TTFT is over all arrivals, those without a first
    token counted at the horizon's end. `feasible` are the ids of those whose promise an idle
    replica would keep: with them shares are given also over those alone.
    """
    fates = result.fates
    met = sum(fate.meets for fate in fates)
    by_class = attainment(fates, cumulative=False)
    ttft = _ttfts_s(fates, horizon_s)
    tpot = np.asarray([f.tpot_s for f in fates if f.output_tokens > 1] or [0.0])
    count = max(1, len(fates))
    return {
        "requests": len(fates),
        "joint": met / count,
        "joint_cumulative": sum(fate.meets_every_token for fate in fates) / count,
        "worst_class": min(by_class.values(), default=0.0),
        **{f"attainment_{name}": share for name, share in by_class.items()},
        **{
            f"attainment_cumulative_{name}": share
            for name, share in attainment(fates, cumulative=True).items()
        },
        "rejected": sum(fate.was_refused for fate in fates) / count,
        "relegated": sum(fate.was_relegated for fate in fates) / count,
        "preemptions": sum(fate.preemptions for fate in fates),
        "arrivals_rps": len(fates) / horizon_s,
        "goodput_rps": met / horizon_s,
        "ttft_mean_s": float(ttft.mean()),
        "ttft_p50_s": float(np.percentile(ttft, 50)),
        "ttft_p99_s": float(np.percentile(ttft, 99)),
        "tpot_p50_s": float(np.percentile(tpot, 50)),
        "tpot_p99_s": float(np.percentile(tpot, 99)),
        "accelerator_s": result.accelerator_s,
        "accelerator_s_per_1000_met": result.accelerator_s / met * 1000 if met else inf,
        "utilisation": result.busy_s / result.accelerator_s if result.accelerator_s else 0.0,
        "steps": result.steps,
        **({} if feasible is None else _of_feasible(fates, feasible)),
    }


def _of_feasible(fates: Sequence[Fate], feasible: frozenset[str]) -> Summary:
    """Shares over the requests that can be kept at all."""
    chosen = [fate for fate in fates if fate.job.request.id in feasible]
    by_class = attainment(chosen, cumulative=False)
    return {
        "feasible_alone": len(chosen) / max(1, len(fates)),
        "joint_of_feasible": sum(fate.meets for fate in chosen) / max(1, len(chosen)),
        "worst_class_of_feasible": min(by_class.values(), default=0.0),
        **{f"of_feasible_{name}": share for name, share in by_class.items()},
    }


def curves(fates: Sequence[Fate]) -> Curves:
    """Quantiles of TTFT and TPOT in steps of a percent, over all and for each class.

    TTFT is over all arrivals, infinite where no first token came; TPOT over outputs of more than
    one token.
    """
    groups: dict[str, list[Fate]] = {ALL: list(fates)}
    for fate in fates:
        groups.setdefault(fate.job.request.objective.tier, []).append(fate)
    return {
        name: {
            "ttft_s": _quantiles([fate.ttft_s for fate in group]),
            "tpot_s": _quantiles([fate.tpot_s for fate in group if fate.output_tokens > 1]),
        }
        for name, group in sorted(groups.items())
    }


def _quantiles(values: Sequence[float]) -> list[float]:
    at = np.linspace(0.0, 1.0, STEPS + 1)
    found: list[float] = np.quantile(values or [0.0], at, method="inverted_cdf").tolist()
    return found


def attainment(fates: Iterable[Fate], *, cumulative: bool) -> dict[str, float]:
    """The share of each class whose promise was kept, in order of name."""
    kept: dict[str, list[bool]] = {}
    for fate in fates:
        met = fate.meets_every_token if cumulative else fate.meets
        kept.setdefault(fate.job.request.objective.tier, []).append(met)
    return {name: sum(row) / len(row) for name, row in sorted(kept.items())}


def mean(summaries: Sequence[Mapping[str, float]]) -> Summary:
    """The mean of each figure over runs; a class that one run lacks counts where it was."""
    names = dict.fromkeys(name for summary in summaries for name in summary)
    return {name: float(np.mean([s[name] for s in summaries if name in s])) for name in names}


def _ttfts_s(fates: Sequence[Fate], horizon_s: float) -> np.ndarray:
    values = [
        fate.ttft_s if fate.first_s is not None else horizon_s - fate.job.request.arrival_s
        for fate in fates
    ]
    return np.asarray(values or [0.0])
