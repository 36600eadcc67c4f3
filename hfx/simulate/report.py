"""One folder to show to others: figures as PNG and SVG, and a page that holds them all.

The page needs no network and no other file, and follows its reader's light or dark theme.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from hfx.machine import describe_machine

from .looks import DARK, LIGHT, Theme, palette, save
from .output import GOALS, Group, grouped, highest_rates, limits_of
from .plots import (
    GOAL,
    Limit,
    cdf_figure,
    class_figure,
    goodput_figure,
    load_figure,
    timeline_figure,
)
from .scenario import Run, Scenario
from .summary import Summary
from .words import described, targets

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PAGE = "index.html"
LIMIT_LINES: Mapping[str, tuple[str, Any]] = {
    "feasible_alone": ("limit: feasible alone", (0, (5, 1.5, 1, 1.5))),
    "fluid": ("limit: fluid", (0, (4, 2))),
    "clairvoyant": ("hfx, clairvoyant", "-"),
}
LIMIT_WORDS = (
    "Grey: no policy keeps more than the requests that an idle replica would serve in time, nor "
    "more than a fluid limit on the fleet's time; the solid line is our own policy when it knows "
    "the future."
)
TIMELINES = 3  # policies: more make a page that nobody scrolls through


@dataclass(frozen=True, slots=True)
class Picture:
    """A figure of the page, and how it is drawn."""

    name: str
    title: str
    caption: str
    build: Callable[[Theme], Figure]


@dataclass(frozen=True, slots=True)
class Shown:
    """A picture as the page holds it: one image for each theme."""

    name: str
    title: str
    caption: str
    light: str
    dark: str


def write_report(folder: Path, scenario: Scenario, runs: Sequence[Run]) -> Path:
    """Write every figure and the page into a folder, which is made; the page's path.

    Raises:
        OSError: the folder can't be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    groups, limits = grouped(runs), _limits(runs)
    at = reference(groups)
    pictures = list(_pictures(scenario, groups, at, limits))
    shown = [_shown(folder, picture) for picture in pictures]
    page = folder / PAGE
    page.write_text(_page(scenario, groups, at, shown, limits_of(runs)), encoding="utf-8")
    return page


def _limits(runs: Sequence[Run]) -> Sequence[Limit]:
    """Lines to draw."""
    found = sorted(limits_of(runs).items())
    return [
        Limit(name, tuple((load, figures[key]) for load, figures in found), dash)
        for key, (name, dash) in LIMIT_LINES.items()
        if found
    ]


def reference(groups: Sequence[Group]) -> list[Group]:
    """One load to look at closely: the highest that some policy still serves well, else the lowest.

    Each policy's group at it.
    """
    loads = sorted({group.load_rps for group in groups})
    well = [group.load_rps for group in groups if group.figures["joint"] >= GOAL]
    load = max(well, default=loads[0])
    return [group for group in groups if group.load_rps == load]


def _pictures(
    scenario: Scenario, groups: Sequence[Group], at: Sequence[Group], limits: Sequence[Limit]
) -> Iterator[Picture]:
    looks = palette([group.policy for group in groups])
    promised = targets(scenario)
    names = [name for name in promised if f"attainment_{name}" in at[0].figures]
    load = f"{at[0].load_rps:.3g} requests/s"
    seeds = len(at[0].runs)
    shade = " The shaded range is that of the seeds." if seeds > 1 else ""
    many = len({group.load_rps for group in groups}) > 1
    bend = (
        "Where a line leaves that of all arrivals, promises begin to be broken; where it falls, "
        "more load means less service."
    )
    limit = f" {LIMIT_WORDS}" if limits else ""
    yield Picture(
        "attainment",
        "Promises kept against load" if many else "Promises kept",
        "Share of all requests that arrived, and of the class that fared worst, whose every target "
        f"was met. The dashed line is {GOAL:.0%}.{limit}{shade}",
        lambda theme: load_figure(groups, looks, theme, limits),
    )
    yield Picture(
        "goodput",
        "Goodput against load" if many else "Goodput",
        f"Requests per second whose promise was kept. {bend if many else ''}{limit}",
        lambda theme: goodput_figure(groups, looks, theme, limits),
    )
    if len(names) > 1:
        yield Picture(
            "classes",
            f"Who is served well at {load}",
            "Percent of each class's requests whose promise was kept.",
            lambda theme: class_figure(at, looks, theme, names),
        )
    yield Picture(
        "latency",
        f"Latencies at {load}",
        "Distribution of the time to the first token and of the mean time per token after it, by "
        "class. The dotted line is the class's target. A line that ends below 100% belongs to "
        "requests that never got a first token.",
        lambda theme: cdf_figure(at, looks, theme, {name: promised[name] for name in names}),
    )
    for n, group in enumerate(at[:TIMELINES]):
        yield Picture(
            "timeline" if not n else f"timeline-{n + 1}",
            f"The fleet under {group.policy} at {load}",
            "Replicas that cost something, by state; requests by where they are; the share of the "
            "time in which replicas computed. After the dashed line nothing arrives any more.",
            lambda theme, group=group: timeline_figure(group, theme, group.horizon_s),  # type: ignore[misc]
        )


def _shown(folder: Path, picture: Picture) -> Shown:
    """Draw a picture into its files, and as the page holds it."""
    svg, png = (folder / f"{picture.name}{suffix}" for suffix in (".svg", ".png"))
    save([svg], picture.build, DARK)
    dark = _encoded(svg)
    save([svg, png], picture.build, LIGHT)  # a dark one alone would be unreadable on white
    return Shown(picture.name, picture.title, picture.caption, _encoded(svg), dark)


def _encoded(path: Path) -> str:
    return base64.b64encode(path.read_bytes()).decode()


def _page(
    scenario: Scenario,
    groups: Sequence[Group],
    at: Sequence[Group],
    shown: Sequence[Shown],
    limits: Mapping[float, Summary],
) -> str:
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    looks = palette([group.policy for group in groups])
    colours = {
        name: {"light": look.colour(LIGHT), "dark": look.colour(DARK)}
        for name, look in looks.items()
    }
    rates: Mapping[float, Mapping[str, float]] = {
        goal: highest_rates(groups, goal) for goal in GOALS
    }
    parts: dict[str, Any] = {
        "words": described(scenario, groups),
        "groups": groups,
        "at": at,
        "best": max(at, key=lambda group: group.figures["joint"]),
        "rates": rates,
        "loads": sorted({group.load_rps for group in groups}),
        "pictures": shown,
        "colours": colours,
        "limits": limits,
        "tops": {
            load: max((g for g in groups if g.load_rps == load), key=lambda g: g.figures["joint"])
            for load in limits
        },
        "settings": scenario.settings(),
        "machine": describe_machine(),
    }
    return environment.get_template("report.html.jinja").render(parts)
