"""Figures of a sweep, drawn by matplotlib: the same colour for a policy in each of them.

A figure is drawn for a light page or for a dark one. Shares are of all arrivals.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import inf
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .looks import DASHES, LIGHT, Look, Palette, Theme, palette, save
from .output import Group, classes, grouped
from .scenario import Run

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

GOAL = 0.9
MOST_TICKS = 8
UNITS = {"ttft_s": 1.0, "tpot_s": 1e3}  # of the axes of distributions: seconds, milliseconds


def draw(path: Path, runs: Sequence[Run]) -> None:
    """Kept promises against the rate of arrivals, as PNG or SVG by the file's name."""
    path.parent.mkdir(parents=True, exist_ok=True)
    groups = grouped(runs)
    names = [group.policy for group in groups]
    save([path], lambda theme: load_figure(groups, palette(names), theme, ()), LIGHT)


@dataclass(frozen=True, slots=True)
class Limit:
    """What no policy passes, at some loads: pairs of load and share."""

    name: str
    points: tuple[tuple[float, float], ...]
    dash: Any = ":"


Limits = Sequence[Limit]


def load_figure(groups: Sequence[Group], looks: Palette, theme: Theme, limits: Limits) -> Figure:
    """Promises kept by all and by the worst class, against load; the range over seeds is shaded."""
    figure, axes = _panels(1, 2, (10, 4.3))
    for axis, (key, title) in zip(
        axes[0], (("joint", "All requests"), ("worst_class", "Worst class")), strict=True
    ):
        for policy, look in looks.items():
            _curve(axis, [g for g in groups if g.policy == policy], key, look, theme)
        axis.axhline(GOAL, color=theme.faint, linewidth=1, linestyle=(0, (2, 3)), zorder=1)
        axis.set(title=title, xlabel="arrivals (requests/s)", ylim=(0, 1.03))
        axis.yaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
        _load_ticks(axis, groups)
    axes[0][0].set_ylabel("promises kept (share of arrivals)")
    for limit in limits:
        _limit(axes[0][0], limit, theme)
    _legend(figure, axes[0][0], len(looks) + len(limits))
    return figure


def goodput_figure(groups: Sequence[Group], looks: Palette, theme: Theme, limits: Limits) -> Figure:
    """Requests per second in time, against load; the diagonal is everything that arrives."""
    figure, axes = _panels(1, 1, (10, 4.3))
    axis = axes[0][0]
    loads = [group.load_rps for group in groups]
    for policy, look in looks.items():
        _curve(axis, [g for g in groups if g.policy == policy], "goodput_rps", look, theme)
    for limit in limits:
        scaled = tuple((load, load * share) for load, share in limit.points)
        _limit(axis, Limit(limit.name, scaled, limit.dash), theme)
    axis.plot([0, max(loads)], [0, max(loads)], color=theme.grid, linewidth=1.2, zorder=0)
    axis.annotate(
        "all arrivals",
        (max(loads), max(loads)),
        color=theme.faint,
        fontsize=9,
        ha="right",
        va="bottom",
    )
    low = min(loads) * 0.9 if len(set(loads)) > 1 else 0
    axis.set(xlabel="arrivals (requests/s)", ylabel="goodput (requests/s in time)")
    axis.set(xlim=(low, max(loads) * 1.03), ylim=(0, max(loads) * 1.08))
    _load_ticks(axis, groups)
    _legend(figure, axis, len(looks) + len(limits))
    return figure


def class_figure(groups: Sequence[Group], looks: Palette, theme: Theme) -> Figure:
    """Promises kept by class at one load, a bar for each policy."""
    figure, axes = _panels(1, 1, (10, 3.9))
    axis = axes[0][0]
    names = classes(groups[0].figures)
    labels = ["all", *names]
    keys = ["joint", *(f"attainment_{name}" for name in names)]
    width = 0.82 / len(groups)
    for n, group in enumerate(groups):
        at = [i + (n - (len(groups) - 1) / 2) * width for i in range(len(labels))]
        shares = [group.figures.get(key, 0.0) for key in keys]
        colour = looks[group.policy].colour(theme)
        bars = axis.bar(at, shares, width * 0.92, color=colour, label=group.policy)
        if len(groups) <= 4:
            axis.bar_label(bars, [f"{100 * x:.0f}" for x in shares], fontsize=9, padding=2)
    axis.set_xticks(range(len(labels)), labels)
    axis.grid(axis="x", visible=False)
    axis.set(ylabel="promises kept", ylim=(0, 1.1), yticks=[0, 0.25, 0.5, 0.75, 1.0])
    axis.yaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
    _legend(figure, axis, len(groups))
    return figure


def cdf_figure(
    groups: Sequence[Group],
    looks: Palette,
    theme: Theme,
    targets: Mapping[str, tuple[float | None, float | None]],
) -> Figure:
    """How TTFT and TPOT are distributed at one load, by class; the class's target is a line."""
    names = classes(groups[0].figures)
    figure, axes = _panels(2, len(names), (max(5.0, 2.9 * len(names) + 1), 5.6))
    for column, name in enumerate(names):
        for row, (key, title) in enumerate((("ttft_s", "TTFT (s)"), ("tpot_s", "TPOT (ms)"))):
            axis = axes[row][column]
            for group in groups:
                look = looks[group.policy]
                _cdf(axis, group, name, key, look, theme)
            if (target_s := targets.get(name, (None, None))[row]) is not None:
                axis.axvline(
                    target_s * UNITS[key], color=theme.ink, linewidth=1.1, linestyle=(0, (2, 2))
                )
            axis.set(xscale="log", ylim=(0, 1.02), xlabel=title)
            _log_ticks(axis)
            axis.yaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
            if row == 0:
                axis.set_title(name)
        axes[0][0].set_ylabel("share of arrivals")
        axes[1][0].set_ylabel("share of outputs")
    _legend(figure, axes[0][0], len(groups))
    return figure


def _cdf(axis: Axes, group: Group, name: str, key: str, look: Look, theme: Theme) -> None:
    """Of the first seed's run."""
    curve = group.runs[0].curves.get(name)
    if curve is None:
        return
    values = curve[key]
    at = [n / (len(values) - 1) for n in range(len(values))]
    unit = UNITS[key]
    points = [(max(x, 1e-4) * unit, y) for x, y in zip(values, at, strict=True) if x < inf]
    if points:
        axis.plot(
            *zip(*points, strict=True),
            color=look.colour(theme),
            linestyle=look.dash,
            label=group.policy,
            linewidth=1.8,
        )


def _load_ticks(axis: Axes, groups: Sequence[Group]) -> None:
    """The loads that were simulated, as far as they are few."""
    loads = sorted({group.load_rps for group in groups})
    if len(loads) <= MOST_TICKS:
        axis.set_xticks(loads, [f"{load:.3g}" for load in loads])


def _log_ticks(axis: Axes) -> None:
    """Few plain numbers: 1, 2 and 5 of each decade as far as they have room, nothing between."""
    from matplotlib.ticker import LogLocator, NullFormatter

    low, high = axis.get_xlim()
    subs = (1.0, 2.0, 5.0) if high / low < 50 else (1.0,)
    axis.xaxis.set_major_locator(LogLocator(subs=subs, numticks=12))
    axis.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axis.xaxis.set_minor_formatter(NullFormatter())


def timeline_figure(group: Group, theme: Theme, horizon_s: float) -> Figure:
    """One run: replicas by state, requests by where they are, and how busy replicas were."""
    seen = group.runs[0].timeline
    figure, axes = _panels(3, 1, (10, 6.2), sharex=True)
    time_s = seen["time_s"]
    states = [state for state in theme.states if state in seen["replicas"]]
    axes[0][0].stackplot(
        time_s,
        *(seen["replicas"][state] for state in states),
        labels=states,
        colors=[theme.states[state] for state in states],
        step="post",
        linewidth=0,
    )
    axes[0][0].set(title="Replicas by state", ylabel="replicas", ylim=(0, None))
    for n, (key, label) in enumerate(
        (
            ("running", "running"),
            ("waiting", "waiting at a replica"),
            ("queued", "in no replica yet"),
        )
    ):
        axes[1][0].plot(
            time_s,
            seen[key],
            color=theme.policies[n],
            label=label,
            linewidth=1.4,
            linestyle=DASHES[n],
        )
    axes[1][0].set(title="Requests", ylabel="requests", ylim=(0, None))
    axes[2][0].plot(time_s[1:], seen["busy"][1:], color=theme.policies[0], linewidth=1.4)
    axes[2][0].set(title="Busy", ylabel="share of time", ylim=(0, 1.03), xlabel="time (s)")
    axes[2][0].yaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
    for row in axes:
        row[0].margins(x=0)
        if horizon_s < time_s[-1]:
            row[0].axvline(horizon_s, color=theme.faint, linewidth=1, linestyle=(0, (2, 3)))
    for row in axes[:2]:
        row[0].legend(loc="upper left", bbox_to_anchor=(1.0, 1.0), fontsize=9.5)
    return figure


def _panels(
    rows: int, columns: int, size: tuple[float, float], *, sharex: bool = False
) -> tuple[Figure, Any]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=size, layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False, sharex=sharex)
    return figure, axes


def _curve(axis: Axes, groups: Sequence[Group], key: str, look: Look, theme: Theme) -> None:
    ordered = sorted(groups, key=lambda group: group.load_rps)
    loads = [group.load_rps for group in ordered]
    colour = look.colour(theme)
    axis.plot(
        loads,
        [group.figures[key] for group in ordered],
        color=colour,
        marker=look.marker,
        linestyle=look.dash,
        label=ordered[0].policy,
    )
    if max(len(group.runs) for group in ordered) > 1:
        low = [min(run.summary[key] for run in group.runs) for group in ordered]
        high = [max(run.summary[key] for run in group.runs) for group in ordered]
        axis.fill_between(loads, low, high, color=colour, alpha=0.16, linewidth=0)


def _limit(axis: Axes, limit: Limit, theme: Theme) -> None:
    points = sorted(limit.points)
    marker = "_" if len(points) == 1 else None
    axis.plot(
        *zip(*points, strict=True),
        color=theme.faint,
        linestyle=limit.dash,
        linewidth=1.5,
        marker=marker,
        markersize=14,
        label=limit.name,
        zorder=1.5,
    )


def _legend(figure: Figure, axis: Axes, entries: int) -> None:
    """Above the panels, where it hides nothing."""
    handles, labels = axis.get_legend_handles_labels()
    figure.legend(
        handles,
        labels,
        loc="outside upper left",
        ncols=min(entries, 4),
        fontsize=9.5,
        handlelength=2.6,
        columnspacing=1.6,
    )
