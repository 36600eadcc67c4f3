"""Draws what was measured: distributions of TTFT and TPOT by tier, and attainment over rates.

Needs matplotlib, which hfx does not otherwise: `pip install hfx[plot]`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from .attainment import Targets
from .outcome import Outcome, output_tokens, tpot_s

SUFFIXES = (".svg", ".png")


def check(path: Path) -> None:
    """That a picture can be drawn there, before anything is measured.

    Raises:
        ValueError: another ending than .svg or .png, or no matplotlib; the message has the cure.
    """
    if path.suffix not in SUFFIXES:
        raise ValueError(f"--plot {path}: the name must end with {' or '.join(SUFFIXES)}")
    _figure()


def _figure() -> Any:
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise ValueError("--plot needs matplotlib: pip install 'hfx[plot]'") from None
    return Figure


def draw_cdfs(
    path: Path, outcomes: Sequence[Outcome], targets: Sequence[Targets], tiers: Sequence[str]
) -> None:
    """Shares of requests by TTFT and by TPOT, a line a tier; a target is a dotted line.

    All arrivals are in the denominator, so that a line that stays below 1 shows failures.
    """
    figure = _figure()(figsize=(10, 4), layout="constrained")
    for axis, name in zip(figure.subplots(1, 2), ("TTFT", "TPOT"), strict=True):
        for number, tier in enumerate(dict.fromkeys(tiers)):
            chosen = [i for i, own in enumerate(tiers) if own == tier]
            mine = [outcomes[i] for i in chosen]
            ms = np.sort(np.asarray(_samples_s(mine, name)) * 1e3)
            axis.step(ms, np.arange(1, len(ms) + 1) / len(mine), label=tier or "all", where="post")
            for limit_s in {_target_s(targets[i], name) for i in chosen}:
                if limit_s is not None:
                    axis.axvline(limit_s * 1e3, color=f"C{number}", linestyle=":")
        axis.set(xlabel=f"{name} (ms)", ylabel="share of arrivals", ylim=(0, 1.02), xlim=(0, None))
        axis.grid(alpha=0.3)
        axis.legend(loc="lower right")
    figure.savefig(path)


def _samples_s(outcomes: Sequence[Outcome], name: str) -> list[float]:
    done = [outcome for outcome in outcomes if outcome.success]
    if name == "TTFT":
        return [outcome.ttft_s for outcome in done]
    return [tpot_s(outcome) for outcome in done if output_tokens(outcome) > 1]


def _target_s(targets: Targets, name: str) -> float | None:
    return targets.ttft_s if name == "TTFT" else targets.tpot_s


def draw_sweep(path: Path, trials: Sequence[Mapping[str, Any]], goal: float) -> None:
    """Attainment with its interval at each rate that was tried."""
    figure = _figure()(figsize=(6, 4), layout="constrained")
    axis = figure.subplots()
    ordered = sorted(trials, key=lambda trial: float(trial["request_rate"]))
    rates = [trial["request_rate"] for trial in ordered]
    shares = np.asarray([trial["slo_attainment"] for trial in ordered])
    low = np.asarray([trial["slo_attainment_low"] for trial in ordered])
    high = np.asarray([trial["slo_attainment_high"] for trial in ordered])
    axis.errorbar(rates, shares, (shares - low, high - shares), marker="o", capsize=3)
    axis.axhline(goal, color="black", linestyle=":")
    axis.set(xlabel="requests per second", ylabel="attainment", ylim=(0, 1.02))
    axis.grid(alpha=0.3)
    figure.savefig(path)
