"""Figures of a sweep, drawn by matplotlib: the same colour for a policy in each of them.

A figure is drawn for a light page or for a dark one. Shares are of all arrivals.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import inf
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .looks import DASHES, LIGHT, Look, Palette, Theme, palette, save
from .output import Group, grouped
from .scenario import Run

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

GOAL = 0.9
MOST_TICKS = 8
STATES = {"prefill": "ready, for prompts", "decode": "ready, for decoding"}
UNITS = {"ttft_s": 1.0, "tpot_s": 1e3}  # of the axes of distributions: seconds, milliseconds
AXES = {"ttft_s": "TTFT (s)", "tpot_s": "TPOT (ms)"}


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
    """Promises kept by all and by the worst class, against load; the range over seeds is shaded.

    At one load alone each policy has a bar.
    """
    height, draw_panel = _panel_of(groups, looks)
    figure, axes = _panels(1, 2, (10, height), sharey=len(_loads(groups)) == 1)
    for axis, (key, title) in zip(
        axes[0], (("joint", "All requests"), ("worst_class", "Worst class")), strict=True
    ):
        draw_panel(axis, groups, key, looks, theme)
        axis.set(title=title)
    for limit in limits:
        _limit(axes[0][0], limit, theme)
    for axis in axes[0]:
        _frame(axis, groups, "promises kept (share of arrivals)", 1.03, GOAL, theme)
        (axis.xaxis if len(_loads(groups)) == 1 else axis.yaxis).set_major_formatter(
            lambda value, _: f"{value:.0%}"
        )
    axes[0][1].set_ylabel("")
    _legend(figure, axes[0][0])
    return figure


def goodput_figure(groups: Sequence[Group], looks: Palette, theme: Theme, limits: Limits) -> Figure:
    """Requests per second in time, against load; the faint line is everything that arrives."""
    height, draw_panel = _panel_of(groups, looks)
    figure, axes = _panels(1, 1, (10, height))
    axis, loads = axes[0][0], _loads(groups)
    draw_panel(axis, groups, "goodput_rps", looks, theme)
    for limit in limits:
        scaled = tuple((load, load * share) for load, share in limit.points)
        _limit(axis, Limit(limit.name, scaled, limit.dash), theme)
    everything = Limit("all arrivals", tuple((load, load) for load in loads), "-")
    _limit(axis, everything, theme, theme.grid)
    _frame(axis, groups, "goodput (requests/s in time)", max(loads) * 1.06, None, theme)
    _legend(figure, axis)
    return figure


def _loads(groups: Sequence[Group]) -> list[float]:
    return sorted({group.load_rps for group in groups})


def _panel_of(groups: Sequence[Group], looks: Palette) -> tuple[float, Callable[..., None]]:
    """How high a figure is, in inches, and how its panels are drawn."""
    return (4.3, _curves) if len(_loads(groups)) > 1 else (1.5 + 0.42 * len(looks), _bars)


def _curves(axis: Axes, groups: Sequence[Group], key: str, looks: Palette, theme: Theme) -> None:
    for policy, look in looks.items():
        _curve(axis, [group for group in groups if group.policy == policy], key, look, theme)


def _bars(axis: Axes, groups: Sequence[Group], key: str, looks: Palette, theme: Theme) -> None:
    names = list(looks)
    values = {group.policy: group.figures[key] for group in groups}
    colours = [looks[name].colour(theme) for name in names]
    axis.barh(names, [values[name] for name in names], 0.68, color=colours)
    form = "{:.2f}" if key == "goodput_rps" else "{:.1%}"
    longest = max(max(values.values()), max(_loads(groups)) if key == "goodput_rps" else 1.0)
    for n, name in enumerate(names):
        fits = values[name] > longest / 4  # within its bar
        axis.annotate(
            form.format(values[name]),
            (values[name], n),
            xytext=(-5 if fits else 5, 0),
            textcoords="offset points",
            ha="right" if fits else "left",
            va="center",
            fontsize=9.5,
            color=theme.on_bars if fits else theme.ink,
        )
    axis.grid(axis="y", visible=False)
    axis.set_ylim(len(names) - 0.5, -0.5)


def _frame(
    axis: Axes, groups: Sequence[Group], title: str, top: float, goal: float | None, theme: Theme
) -> None:
    """Axes of a figure against load; on its side where there is one load alone."""
    loads, dash = _loads(groups), (0, (2, 3))
    if len(loads) == 1:
        axis.set(xlabel=title, xlim=(0, top))
        if goal is not None:
            axis.axvline(goal, color=theme.faint, linewidth=1, linestyle=dash, zorder=1)
    else:
        axis.set(xlabel="arrivals (requests/s)", ylabel=title, ylim=(0, top))
        _load_ticks(axis, loads)
        if goal is not None:
            axis.axhline(goal, color=theme.faint, linewidth=1, linestyle=dash, zorder=1)


def class_figure(
    groups: Sequence[Group], looks: Palette, theme: Theme, names: Sequence[str]
) -> Figure:
    """Promises kept by class at one load, a bar for each policy."""
    figure, axes = _panels(1, 1, (10, 3.9))
    axis = axes[0][0]
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
    _legend(figure, axis)
    return figure


def cdf_figure(
    groups: Sequence[Group],
    looks: Palette,
    theme: Theme,
    targets: Mapping[str, tuple[float | None, float | None]],
) -> Figure:
    """How TTFT and TPOT are distributed at one load, by class; the class's target is a line."""
    figure, panels = _distribution_panels(len(targets))
    for pair, (name, promised) in zip(panels, targets.items(), strict=True):
        for axis, key, target_s in zip(pair, UNITS, promised, strict=True):
            for group in groups:
                _cdf(axis, group, name, key, looks[group.policy], theme)
            if target_s is not None:
                at = target_s * UNITS[key]
                axis.axvline(at, color=theme.ink, linewidth=1.1, linestyle=(0, (2, 2)))
            axis.set(xscale="log", ylim=(0, 1.02), xlabel=AXES[key])
            axis.yaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
            _log_ticks(axis)
        pair[0].set_title(name)
    panels[0][0].set_ylabel("share of arrivals")
    panels[0][1].set_ylabel("share of outputs")
    _legend(figure, panels[0][0])
    return figure


def _distribution_panels(classes: int) -> tuple[Figure, list[tuple[Axes, Axes]]]:
    """A column for each class, TTFT above TPOT; a class alone has them side by side."""
    if classes == 1:
        figure, axes = _panels(1, 2, (10, 4.0))
        return figure, [(axes[0][0], axes[0][1])]
    figure, axes = _panels(2, classes, (max(7.0, 2.9 * classes + 1), 5.6))
    return figure, list(zip(*axes, strict=True))


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


def _load_ticks(axis: Axes, loads: Sequence[float]) -> None:
    """The loads that were simulated, as far as they are few."""
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
        labels=[STATES.get(state, state) for state in states],
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
    rows: int,
    columns: int,
    size: tuple[float, float],
    *,
    sharex: bool = False,
    sharey: bool = False,
) -> tuple[Figure, Any]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=size, layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False, sharex=sharex, sharey=sharey)
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


def _limit(axis: Axes, limit: Limit, theme: Theme, colour: str | None = None) -> None:
    style: dict[str, Any] = {
        "color": colour or theme.faint,
        "linestyle": limit.dash,
        "linewidth": 1.5,
        "label": limit.name,
        "zorder": 1.5 if colour is None else 0.5,
    }
    if len(limit.points) == 1:
        axis.axvline(limit.points[0][1], **style)
    else:
        axis.plot(*zip(*sorted(limit.points), strict=True), **style)


def _legend(figure: Figure, axis: Axes) -> None:
    """Above the panels, where it hides nothing."""
    handles, labels = axis.get_legend_handles_labels()
    if not handles:
        return
    figure.legend(
        handles,
        labels,
        loc="outside upper left",
        ncols=min(len(handles), 4),
        fontsize=9.5,
        handlelength=2.6,
        columnspacing=1.6,
    )
