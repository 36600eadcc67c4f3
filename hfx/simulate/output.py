"""What a command says of its runs: text for people, one JSON object for programs.

`rows` and `summary` of the object hold no wall times: the same seeds give the same bytes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from hfx.machine import describe_machine, finite

from .scenario import LIMITS, Run
from .summary import Summary, mean

DETAILED = 3  # groups: more are shown as a table
GOALS = (0.90, 0.99)  # of promises kept
COLUMNS = (
    ("joint", "kept", "{:.1%}"),
    ("joint_cumulative", "every token", "{:.1%}"),
    ("worst_class", "worst class", "{:.1%}"),
    ("goodput_rps", "goodput/s", "{:.2f}"),
    ("rejected", "refused", "{:.1%}"),
    ("ttft_p50_s", "TTFT p50 s", "{:.3f}"),
    ("ttft_p99_s", "p99 s", "{:.2f}"),
    ("tpot_p50_s", "TPOT p50 s", "{:.4f}"),
    ("tpot_p99_s", "p99 s", "{:.4f}"),
    ("utilisation", "busy", "{:.0%}"),
)


@dataclass(frozen=True, slots=True)
class Group:
    """One policy at one rate: the mean over seeds, and the requests simulated per CPU second."""

    policy: str
    rate: float | None
    runs: tuple[Run, ...]
    figures: Summary

    @property
    def name(self) -> str:
        """What its figures are called by among those of others."""
        return self.policy if self.rate is None else f"{self.policy}@{self.rate:g}"

    @property
    def requests_per_cpu_s(self) -> float:
        """The speed of the simulator; the only figure that differs from run to run."""
        cpu_s = sum(run.cpu_s for run in self.runs)
        return sum(run.summary["requests"] for run in self.runs) / max(cpu_s, 1e-9)

    @property
    def horizon_s(self) -> float:
        """How long requests arrived in the first run."""
        return self.runs[0].horizon_s

    @property
    def load_rps(self) -> float:
        """The rate that was asked for, or that the trace turned out to have."""
        return self.rate if self.rate is not None else self.figures["arrivals_rps"]


def grouped(runs: Sequence[Run]) -> list[Group]:
    """Runs by policy and rate, in their order; those that say limits are left out."""
    groups: dict[tuple[str, float | None], list[Run]] = {}
    for run in runs:
        if run.point.policy == LIMITS:
            continue
        groups.setdefault((run.point.policy, run.point.rate), []).append(run)
    return [
        Group(policy, rate, tuple(group), mean([run.summary for run in group]))
        for (policy, rate), group in groups.items()
    ]


def limits_of(runs: Sequence[Run]) -> dict[float, Summary]:
    """What no policy can beat, at each load for which it was asked."""
    loads = {group.rate: group.load_rps for group in grouped(runs)}
    return {loads[run.point.rate]: run.summary for run in runs if run.point.policy == LIMITS}


def highest_rates(groups: Sequence[Group], goal: float) -> dict[str, float]:
    """For each policy the rate up to which it keeps a share of promises, between rates by line.

    Policies that keep it at every rate or at none are left out: the sweep doesn't say.
    """
    found = {}
    for policy in dict.fromkeys(group.policy for group in groups):
        curve = sorted((g.load_rps, g.figures["joint"]) for g in groups if g.policy == policy)
        for (low, above), (high, below) in pairwise(curve):
            if above >= goal > below:
                found[policy] = low + (high - low) * (above - goal) / (above - below)
                break
    return found


def summary(groups: Sequence[Group]) -> dict[str, float]:
    """A run's figures by their names; of several groups each as `policy@rate.figure`."""
    if len(groups) == 1:
        return dict(groups[0].figures)
    flat = {f"{group.name}.{key}": x for group in groups for key, x in group.figures.items()}
    for goal in GOALS:
        for policy, rate in highest_rates(groups, goal).items():
            flat[f"{policy}.rate{goal * 100:.0f}"] = rate
    return flat


def record(settings: Mapping[str, Any], runs: Sequence[Run]) -> dict[str, Any]:
    """The object of `--json`."""
    groups = grouped(runs)
    body = {
        "machine": describe_machine() | {"benchmark": "hfx.simulate"},
        "settings": settings,
        "rows": [
            {
                "policy": run.point.policy,
                "rate": run.point.rate,
                "seed": run.point.seed,
                **run.summary,
            }
            for run in runs
        ],
        "limits": [{"rate": rate, **found} for rate, found in limits_of(runs).items()],
        "means": [{"policy": g.policy, "rate": g.rate, **g.figures} for g in groups],
        "summary": summary(groups) | _limit_figures(limits_of(runs)),
        "speed": [
            {"policy": g.policy, "rate": g.rate, "requests_per_cpu_s": g.requests_per_cpu_s}
            for g in groups
        ],
    }
    plain: dict[str, Any] = finite(body)
    return plain


def _limit_figures(limits: Mapping[float, Summary]) -> dict[str, float]:
    at = "" if len(limits) == 1 else "@{:g}"
    return {
        f"limit_{name}{at.format(rate)}": share
        for rate, figures in limits.items()
        for name, share in figures.items()
    }


def text(runs: Sequence[Run]) -> str:
    """What is printed: figures of each group, or a table where there are many."""
    groups = grouped(runs)
    if len(groups) > DETAILED:
        return "\n".join([*_table(groups), *_limit_lines(limits_of(runs))])
    lines = [line for group in groups for line in ("", *_details(group))]
    return "\n".join([*lines, *_limit_lines(limits_of(runs))])


def _limit_lines(limits: Mapping[float, Summary]) -> Iterator[str]:
    for rate, figures in sorted(limits.items()):
        yield (
            f"no policy keeps more than {figures['fluid']:.1%} at {rate:g}/s (fluid limit); "
            f"{figures['feasible_alone']:.1%} are feasible alone; ours keeps "
            f"{figures['clairvoyant']:.1%} when it knows the future"
        )
        if "accelerator_s" in figures:
            yield (
                f"who knew the future could keep every promise in {figures['accelerator_s']:,.0f} "
                "accelerator seconds at least"
            )


def _table(groups: Sequence[Group]) -> Iterator[str]:
    names = ["policy", "rate/s", *(title for _, title, _ in COLUMNS)]
    rows = [names]
    for group in groups:
        cells = [form.format(group.figures[key]) for key, _, form in COLUMNS]
        rows.append([group.policy, f"{group.load_rps:g}", *cells])
    widths = [max(len(row[i]) for row in rows) for i in range(len(names))]
    for row in rows:
        cells = [f"{cell:>{width}}" for cell, width in zip(row[1:], widths[1:], strict=True)]
        yield "  ".join([f"{row[0]:<{widths[0]}}", *cells])
    for goal in GOALS:
        for policy, rate in highest_rates(groups, goal).items():
            yield f"{policy} keeps {goal:.0%} up to {rate:.1f}/s"
    yield f"simulated at {_speed(groups):,.0f} requests per CPU second"


def _speed(groups: Sequence[Group]) -> float:
    cpu_s = sum(run.cpu_s for group in groups for run in group.runs)
    requests = sum(run.summary["requests"] for group in groups for run in group.runs)
    return requests / max(cpu_s, 1e-9)


def _details(group: Group) -> Iterator[str]:
    figures = group.figures
    at = "" if group.rate is None else f" at {group.rate:g}/s"
    yield f"{group.policy}{at}: {figures['requests']:,.0f} requests a run"
    yield "  promises kept     mean TPOT  every token  of those feasible alone"
    for label, keys in _shares(figures):
        shown = [f"{figures[key]:.1%}" if key in figures else "" for key in keys]
        cells = [f"{cell:>{width}}" for cell, width in zip(shown, (9, 12, 12), strict=True)]
        yield f"    {label:14} {' '.join(cells)}".rstrip()
    yield from (f"  {line}" for line in _lines(figures))
    yield f"  simulated at      {group.requests_per_cpu_s:,.0f} requests per CPU second"


def classes(figures: Mapping[str, float]) -> list[str]:
    """The classes that a run had, by name."""
    names = [key.removeprefix("attainment_") for key in figures if key.startswith("attainment_")]
    return [name for name in names if not name.startswith("cumulative_")]


def _shares(figures: Summary) -> Iterator[tuple[str, tuple[str, str, str]]]:
    yield "all", ("joint", "joint_cumulative", "joint_of_feasible")
    for name in classes(figures):
        yield (
            name,
            (f"attainment_{name}", f"attainment_cumulative_{name}", f"of_feasible_{name}"),
        )
    yield "worst class", ("worst_class", "", "worst_class_of_feasible")


def _lines(figures: Summary) -> Iterator[str]:
    get = figures.__getitem__
    yield f"goodput           {get('goodput_rps'):.2f} requests/s in time"
    yield (
        f"TTFT              mean {get('ttft_mean_s'):.3f} s, p50 {get('ttft_p50_s'):.3f} s, "
        f"p99 {get('ttft_p99_s'):.3f} s"
    )
    p50_ms, p99_ms = get("tpot_p50_s") * 1e3, get("tpot_p99_s") * 1e3
    yield f"TPOT              p50 {p50_ms:.1f} ms, p99 {p99_ms:.1f} ms"
    yield (
        f"accelerators      {get('accelerator_s_per_1000_met'):,.0f} s per 1,000 kept promises, "
        f"{get('utilisation'):.0%} busy"
    )
    yield (
        f"relegated         {get('relegated'):.1%}, refused {get('rejected'):.1%}, "
        f"preempted {get('preemptions'):.0f} times"
    )
