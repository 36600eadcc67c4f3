"""Kept promises against load, a panel for each group and SLO scale, with the limits: PNG or SVG."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from .policies_cases import CLAIRVOYANT, FLUID, OWN
from .policies_table import Outcome

STYLES = {
    OWN: {"color": "tab:red", "linewidth": 2.5, "zorder": 5},
    CLAIRVOYANT: {"color": "black", "linestyle": "--"},
    FLUID: {"color": "black", "linestyle": ":"},
}
NAMES = {CLAIRVOYANT: "hfx, told the future", FLUID: "fluid limit"}
COLUMNS = 2


def draw(path: Path, outcomes: Sequence[Outcome]) -> None:
    """Draw every point.

    Raises:
        ValueError: matplotlib is not installed.
    """
    try:
        import matplotlib

        matplotlib.use("Agg")
        from matplotlib import pyplot
    except ImportError as error:
        raise ValueError(f"the plot needs matplotlib ({error}): pip install 'hfx[plot]'") from error
    panels: dict[tuple[object, float], list[Outcome]] = {}
    for one in outcomes:
        panels.setdefault((one.point.group, one.point.scale), []).append(one)
    rows = -(-len(panels) // COLUMNS)
    figure, axes = pyplot.subplots(rows, COLUMNS, figsize=(12, 3.6 * rows), squeeze=False)
    for axis in axes.flat[len(panels) :]:
        axis.set_visible(False)
    for axis, ((group, scale), block) in zip(axes.flat, panels.items(), strict=False):
        block.sort(key=lambda one: one.point.load)
        for name in block[0].runs:
            style = STYLES.get(name, {"linewidth": 1.0, "alpha": 0.7})
            rates = [one.point.rate for one in block]
            shares = [one.mean(name) for one in block]
            axis.plot(rates, shares, marker=".", label=NAMES.get(name, name), **style)
        alone = [one.mean(FLUID, "feasible_alone") for one in block]
        axis.plot(rates, alone, color="gray", linewidth=0.8, label="feasible on an idle replica")
        axis.set(title=f"{group}, SLO x{scale:g}", xlabel="arrivals per second", ylabel="kept")
        axis.set_ylim(max(0.0, min(one.mean(OWN) for one in block) - 0.35), 1.01)
        axis.grid(alpha=0.3)
    handles, labels = axes.flat[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="lower center", ncol=4, fontsize=8)
    figure.tight_layout(rect=(0, 0.35 / rows * 0.25, 1, 1))
    figure.savefig(path, dpi=120)
    pyplot.close(figure)
