"""The design matrix of a regime: a ladder of knots and the sums of many mixes as columns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from hfx.request import Mix

from .nnls import Floats, Greatest
from .regime import Piece, Regime

CLOSEST = 64  # rows between knots at least: closer ones follow one table's waves, not the device

STIFFNESS = 0.15  # of ties beside measured errors: noise alone does not bend the curve
_OPPOSED = np.array([1.0, -1.0])


@dataclass(frozen=True, slots=True)
class Columns:
    """The sums of many mixes, one array per field."""

    rows: Floats
    decodes: Floats
    context: Floats
    root: Floats
    chunks: Floats
    tokens: Floats
    history: Floats
    pairs: Floats

    @classmethod
    def of(cls, mixes: Sequence[Mix]) -> Columns:
        sums = [
            (
                m.tokens,
                m.decodes,
                m.decode_context_tokens,
                m.decode_context_squares**0.5,
                m.chunks,
                m.prefill_tokens,
                m.prefill_context_tokens,
                m.attention_pairs,
            )
            for m in mixes
        ]
        return cls(*np.array(sums, dtype=float).reshape(-1, 8).T)


@dataclass(frozen=True, slots=True)
class Shape:
    """How rich a regime's form is: knots of the curve, pieces of the attention.

    Without `bends`, the attention is linear in the sums: no product and no root of them.
    """

    knots: tuple[float, ...]
    pieces: int
    bends: bool
    prompts: bool

    def shared(self, columns: Columns) -> Floats:
        """Start of the curve, its rises between knots, and the sequences."""
        edges = (*self.knots, np.inf)
        rises = [np.clip(columns.rows - low, 0, high - low) for low, high in pairwise(edges)]
        sequences = columns.decodes + columns.chunks
        return np.column_stack([np.ones_like(columns.rows), *rises, sequences])

    def ties(self, seconds: Floats) -> Floats:
        """Neighbouring slopes of the curve had better be equal, as far as the steps don't mind.

        That draws a straight line where a ladder's interval holds no measured step.
        """
        found = np.zeros((len(self.knots) - 1, len(self.knots) + 2))
        for i, length in enumerate(np.diff(self.knots)):
            found[i, i + 1 : i + 3] = STIFFNESS * length / float(np.median(seconds)) * _OPPOSED
        return found

    def own(self, columns: Columns) -> Floats:
        """The columns of a piece, in the order of `Piece`'s fields; unused ones are 0."""
        bends = float(self.bends)
        found = [
            np.ones_like(columns.rows),
            columns.context,
            columns.decodes * columns.context * bends,
            columns.root * bends,
        ]
        return np.column_stack([*found, columns.history, columns.pairs] if self.prompts else found)

    @property
    def coefficients(self) -> int:
        """How many numbers a fit has to find."""
        per_piece = 2 + 2 * self.bends + 2 * self.prompts
        return len(self.knots) + 2 + self.pieces * per_piece

    def regime(self, fit: Greatest, top: float, upper_factor: float) -> Regime:
        """The coefficients as a regime whose curve was measured up to `top` rows."""
        start, *slopes, sequence_s = fit.base.tolist()
        knots = (*self.knots, max(top, self.knots[-1] + 1))
        lengths = np.diff(knots)
        curve = start + np.concatenate([[0.0], np.cumsum(lengths * np.array(slopes))])
        return Regime(
            knots_tokens=knots,
            curve_s=tuple(curve.tolist()),
            per_token_s=_tail_s(knots, curve),
            per_decode_s=sequence_s,
            per_chunk_s=sequence_s,
            pieces=tuple(Piece(**_named(row)) for row in fit.pieces.tolist()),
            upper_factor=upper_factor,
        )


def ladder(rows: Floats, *, fine: bool) -> tuple[float, ...]:
    """Knots from 0 up, wider apart where steps are longer, each interval with enough data."""
    distinct = np.unique(rows)
    knots, knot = [0.0], float(CLOSEST)
    while knot < distinct.max():
        inside = ((distinct > knots[-1]) & (distinct <= knot)).sum()
        if inside >= 3 and (distinct > knot).sum() >= 2:
            knots.append(knot)
        knot += max(CLOSEST, _rounded(knot / 6)) if fine else knot
    return tuple(knots)


def _rounded(tokens: float) -> float:
    return float(2 ** round(np.log2(tokens)))


def _tail_s(knots: tuple[float, ...], curve: Floats) -> float:
    """The slope behind the last knot: the mean rise of the curve's upper half.

    The last interval alone may be one of the flat stretches between two waves of tiles.
    """
    half = float(np.interp(knots[-1] / 2, knots, curve))
    return max(float(curve[-1]) - half, 0.0) / (knots[-1] / 2)


def _named(row: Sequence[float]) -> dict[str, float]:
    """A row of coefficients by the names of `Piece`'s fields."""
    return dict(zip(Piece.__slots__, row, strict=False))
