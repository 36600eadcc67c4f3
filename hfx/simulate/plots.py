"""Kept promises against the rate of arrivals, one line a policy: PNG or SVG by the file's name."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .cli import Run


def draw(path: Path, runs: Sequence[Run]) -> None:
    """Draw the mean over seeds of what was kept of all, and of the worst class.

    Raises:
        ValueError: matplotlib is not installed.
    """
    try:
        import matplotlib

        matplotlib.use("Agg")
        from matplotlib import pyplot
    except ImportError as error:
        raise ValueError(f"--plot needs matplotlib ({error}): pip install 'hfx[plot]'") from error
    figure, axes = pyplot.subplots(1, 2, figsize=(10, 4), sharey=True)
    for axis, (key, title) in zip(
        axes, (("joint", "all requests"), ("worst_class", "worst class")), strict=True
    ):
        for policy in dict.fromkeys(run.policy for run in runs):
            points = _points([run for run in runs if run.policy == policy], key)
            axis.plot(*zip(*points, strict=True), marker="o", label=policy)
        axis.set(title=title, xlabel="arrivals per second", ylim=(0, 1.02))
        axis.grid(alpha=0.3)
    axes[0].set_ylabel("promises kept")
    axes[0].legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(path, dpi=130)
    pyplot.close(figure)


def _points(runs: Sequence[Run], key: str) -> list[tuple[float, float]]:
    rates = sorted({_rate(run) for run in runs})
    return [
        (rate, sum(values) / len(values))
        for rate in rates
        if (values := [run.summary[key] for run in runs if _rate(run) == rate])
    ]


def _rate(run: Run) -> float:
    return run.summary["requests"] if run.rate is None else run.rate
