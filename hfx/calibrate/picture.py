"""Predicted against measured, drawn: where a model errs, and by how much. Milliseconds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from hfx.engine.measure import Measured
from hfx.engine.profiles import Calibration

DPI = 120
STYLE = (("decode", "#1f6f8b", "o"), ("mixed", "#c8553d", "^"))


def draw(calibration: Calibration, path: Path) -> None:
    """Write the picture, SVG or PNG by the name's ending.

    Raises:
        OSError: the file can't be written.
    """
    figure = Figure(figsize=(11, 5), layout="constrained")
    left, right = figure.subplots(1, 2)
    for name, color, marker in STYLE:
        part = [m for m in calibration.measured if bool(m.mix.prefill_tokens) == (name == "mixed")]
        if part:
            _compare(left, right, calibration, part, name, color, marker)
    left.set(xscale="log", yscale="log", xlabel="measured, ms", ylabel="predicted mean, ms")
    low, high = left.get_xlim()
    left.plot([low, high], [low, high], color="#888888", linewidth=0.8)
    right.axhline(0, color="#888888", linewidth=0.8)
    right.set(xscale="log", xlabel="tokens in the step", ylabel="error of the prediction, %")
    left.legend()
    key = calibration.model.key
    figure.suptitle(f"{key.model} on {key.device}: a step's time, median of the repeats")
    figure.savefig(path, dpi=DPI)


def _compare(
    left: Axes,
    right: Axes,
    calibration: Calibration,
    part: list[Measured],
    name: str,
    color: str,
    marker: str,
) -> None:
    measured_s = [each.median_s for each in part]
    predicted_s = [calibration.model.step_s(each.mix).mean_s for each in part]
    fit = calibration.model.report.get(name)
    label = name if fit is None else f"{name}: MAPE {fit.mape:.1%}, p90 {fit.p90:.1%}"
    options: dict[str, Any] = {"color": color, "marker": marker, "linestyle": "", "alpha": 0.7}
    left.plot([1e3 * s for s in measured_s], [1e3 * s for s in predicted_s], label=label, **options)
    errors = [100 * (p / m - 1) for p, m in zip(predicted_s, measured_s, strict=True)]
    right.plot([each.mix.tokens for each in part], errors, **options)
