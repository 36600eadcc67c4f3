"""Bounds from below of what steps take, linear in what they do: the lines that programs use.

A regime's curve over the rows of a step is replaced by its lower convex hull, so that many steps of
different sizes take at least as long as equal ones would by the hull. Seconds, tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import sqrt

from hfx.cost import StepCost
from hfx.cost.regime import Piece, Regime

MOST_DECODES = 256  # in a step


@dataclass(frozen=True, slots=True)
class Line:
    """A step takes at least this: seconds per step, and per each of what it holds."""

    step_s: float
    prompt_token_s: float
    decode_s: float
    chunk_s: float
    context_token_s: float
    history_token_s: float
    pair_s: float


def decode_lines(profile: StepCost) -> list[Line]:
    """Bounds for every step, because no step takes less than its decodes alone."""
    regime, factor = profile.decode, profile.factors.decode_mean
    lines = []
    for start_s, slope_s in hull(regime, MOST_DECODES):
        for piece in (Piece(), *regime.pieces):
            decode_s = slope_s + regime.per_decode_s
            numbers = (start_s + piece.fixed_s, 0.0, decode_s, 0.0, _context_s(piece), 0.0, 0.0)
            lines.append(Line(*(factor * number for number in numbers)))
    return lines


def mixed_lines(profile: StepCost, step_tokens: int) -> list[Line]:
    """Bounds for steps with prompt chunks, of at most `step_tokens` tokens."""
    regime, factor = profile.mixed, profile.factors.mixed_mean
    lines = []
    for start_s, slope_s in hull(regime, step_tokens):
        for piece in (Piece(), *regime.pieces):
            numbers = (
                start_s + piece.fixed_s,
                slope_s,
                slope_s + regime.per_decode_s,
                regime.per_chunk_s,
                _context_s(piece),
                piece.per_prefill_context_token_s,
                piece.per_attention_pair_s,
            )
            lines.append(Line(*(factor * number for number in numbers)))
    return lines


def _context_s(piece: Piece) -> float:
    """Of one token of context: the root of b squares is at least their sum over root b."""
    root_s = piece.per_root_of_context_squares_s / sqrt(MOST_DECODES)
    return piece.per_decode_context_token_s + root_s


def hull(regime: Regime, most_rows: int) -> list[tuple[float, float]]:
    """The lines (value at 0, slope) whose maximum is the curve's lower convex hull."""
    last = regime.knots_tokens[-1]
    points = [
        (knot, value)
        for knot, value in zip(regime.knots_tokens, regime.curve_s, strict=True)
        if knot <= most_rows
    ]
    if points[-1][0] < most_rows:
        points.append((most_rows, _value_s(regime, most_rows, last)))
    corners: list[tuple[float, float]] = []
    for point in points:
        while len(corners) > 1 and _slope(corners[-2], point) <= _slope(*corners[-2:]):
            corners.pop()
        corners.append(point)
    lines = []
    for left, right in pairwise(corners):
        slope = _slope(left, right)
        lines.append((left[1] - slope * left[0], slope))
    return lines


def _value_s(regime: Regime, rows: float, last: float) -> float:
    if rows >= last:
        return regime.curve_s[-1] + regime.per_token_s * (rows - last)
    knots: Sequence[float] = regime.knots_tokens
    n = next(n for n, knot in enumerate(knots) if knot > rows)
    left, right = (knots[n - 1], regime.curve_s[n - 1]), (knots[n], regime.curve_s[n])
    return left[1] + _slope(left, right) * (rows - left[0])


def _slope(left: tuple[float, float], right: tuple[float, float]) -> float:
    return (right[1] - left[1]) / (right[0] - left[0])
