"""The roofline picture of an attention benchmark: useful GFLOP/s over operations a byte."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

FORMATS = (".svg", ".png")
MARKERS = {"prompt": "o", "decode": "v", "mixed": "s"}


def plot(rows: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Write the picture in the format of the path's suffix, SVG or PNG.

    Raises:
        SystemExit: matplotlib isn't installed.
    """
    try:
        import matplotlib
    except ImportError as error:
        raise SystemExit("--plot needs matplotlib: pip install matplotlib") from error
    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(8, 5))
    peak = max(row["product_gflops"] for row in rows)
    bandwidth = max(row["read_gbps"] for row in rows)
    intensities = [row["useful_gflops"] / row["kv_gbps"] for row in rows]
    ends = (min(intensities) / 2, max(*intensities, peak / bandwidth) * 2)
    knee = peak / bandwidth
    axes.plot([ends[0], knee, ends[1]], [ends[0] * bandwidth, peak, peak], color="black")
    for row, intensity in zip(rows, intensities, strict=True):
        kind = row["case"].split()[0]
        axes.plot(intensity, row["useful_gflops"], MARKERS[kind], label=row["case"], alpha=0.8)
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlabel("useful operations per byte of keys and values")
    axes.set_ylabel("useful GFLOP/s")
    axes.set_title(f"attention on {rows[0]['device']}, back end {rows[0]['backend']}")
    axes.legend(fontsize=5)
    figure.tight_layout()
    figure.savefig(path)
