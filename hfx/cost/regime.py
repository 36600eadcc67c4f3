"""The form of one regime's step time, its value and its closed inverse. Seconds, tokens.

    time = curve(tokens) + s_b decodes + s_c chunks + max(0, piece_1, piece_2, ...)
    piece = fixed + k context + k_b decodes context + k_r root(squares) + h history + a pairs

The curve is piecewise linear and never falls; it holds the matrix products. The greatest piece is
the attention: what binds it (bandwidth, arithmetic, the longest sequence) changes with the mix.
Every coefficient but `fixed` is at least 0, so more work is never cheaper.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable
from dataclasses import dataclass, fields
from itertools import pairwise
from math import inf, isfinite, sqrt
from typing import NamedTuple

from hfx.request import Mix

from .estimate import MOST_TOKENS


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """One bound of the attention's time, in seconds per unit of the mix's sums.

    Raises:
        ValueError: a price is negative or not finite.
    """

    fixed_s: float = 0.0
    per_decode_context_token_s: float = 0.0
    per_decode_times_context_token_s: float = 0.0
    per_root_of_context_squares_s: float = 0.0
    per_prefill_context_token_s: float = 0.0
    per_attention_pair_s: float = 0.0

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if not isfinite(value) or (value < 0 and field.name != "fixed_s"):
                raise ValueError(
                    f"{field.name} is {value}: more work would be cheaper, so a price must be "
                    "finite and at least 0; measure and fit again"
                )


@dataclass(frozen=True, slots=True, kw_only=True)
class Regime:
    """Coefficients of one kind of step, and the factor from its mean to the bound plans trust.

    `knots_tokens` start at 0; `curve_s` are the curve's values there, and `per_token_s` its slope
    behind the last knot.

    Raises:
        ValueError: the curve falls, a coefficient is negative or not finite, `upper_factor` is
            below 1.
    """

    knots_tokens: tuple[float, ...]
    curve_s: tuple[float, ...]
    per_token_s: float
    per_decode_s: float = 0.0
    per_chunk_s: float = 0.0
    pieces: tuple[Piece, ...] = ()
    upper_factor: float = 1.0

    def __post_init__(self) -> None:
        knots, curve = self.knots_tokens, self.curve_s
        if len(knots) != len(curve) or not knots or knots[0] != 0:
            raise ValueError(
                f"knots_tokens ({len(knots)}) and curve_s ({len(curve)}) must be equally many, "
                "the first knot 0"
            )
        for name in ("per_token_s", "per_decode_s", "per_chunk_s"):
            if not 0 <= getattr(self, name) < inf:
                raise ValueError(
                    f"{name} is {getattr(self, name)}: more work would be cheaper, so a price "
                    "must be finite and at least 0; measure and fit again"
                )
        if not all(map(isfinite, (*knots, *curve))) or curve[0] < 0:
            raise ValueError(f"curve_s {curve} must be finite and start at 0 or more")
        if any(a >= b for a, b in pairwise(knots)):
            raise ValueError(f"knots_tokens {knots} must rise")
        if any(a > b for a, b in pairwise(curve)):
            raise ValueError(f"curve_s {curve} falls: more tokens would be cheaper; fit again")
        if not 1 <= self.upper_factor < inf:
            raise ValueError(f"upper_factor is {self.upper_factor}: the bound lies above the mean")


Bound = tuple[float, float]  # a piece at a given mix: seconds without pairs, seconds per pair

_NO_PIECE: Bound = (0.0, 0.0)
USUAL = 0.75  # of the most tokens that could fit: at so many the binding piece is guessed


class Form:
    """A regime made ready for many questions."""

    __slots__ = (
        "_answer_s",
        "_asked",
        "_chunk_s",
        "_curve",
        "_decode_s",
        "_knots",
        "_last",
        "_pieces",
        "_slopes",
    )

    def __init__(self, regime: Regime) -> None:
        curve = regime.curve_s
        # whole numbers are compared with rows twice as fast as the same number as a float
        knots = tuple(int(knot) if knot == int(knot) else knot for knot in regime.knots_tokens)
        self._knots = knots
        self._curve = curve
        self._last = len(knots) - 1
        self._slopes = (
            *((curve[i + 1] - curve[i]) / (knots[i + 1] - knots[i]) for i in range(self._last)),
            regime.per_token_s,
        )
        self._decode_s = regime.per_decode_s
        self._chunk_s = regime.per_chunk_s
        self._pieces = tuple(tuple(getattr(p, f.name) for f in fields(p)) for p in regime.pieces)
        self._asked, self._answer_s = (0, 0, 0), self._decodes_s(0, 0, 0)

    def decodes_s(self, decodes: int, context: int, squares: int) -> float:
        """The time of decodes alone; the last answer is kept, for a planner asks again and again
        what chunks beside the same decodes cost."""
        asked = decodes, context, squares
        if asked != self._asked:
            self._asked, self._answer_s = asked, self._decodes_s(decodes, context, squares)
        return self._answer_s

    def _decodes_s(self, decodes: int, context: int, squares: int) -> float:
        i = bisect_right(self._knots, decodes) - 1
        product = decodes * context
        root = sqrt(squares)
        attention = 0.0
        for fixed, k, k_b, k_r, _, _ in self._pieces:
            piece = fixed + k * context + k_b * product + k_r * root
            if piece > attention:
                attention = piece
        rise = self._slopes[i] * (decodes - self._knots[i])
        return self._decode_s * decodes + (self._curve[i] + rise) + attention

    def mixed_s(self, mix: Mix) -> float:
        """The time of prompt chunks and decodes together."""
        decodes, context, chunks, tokens, history, pairs, squares = mix
        rows = decodes + tokens
        i = bisect_right(self._knots, rows) - 1
        product = decodes * context
        root = sqrt(squares)
        attention = 0.0
        for fixed, k, k_b, k_r, h, a in self._pieces:
            piece = fixed + k * context + k_b * product + k_r * root + h * history + a * pairs
            if piece > attention:
                attention = piece
        rise = self._slopes[i] * (rows - self._knots[i])
        fixed_s = self._decode_s * decodes + self._chunk_s * chunks
        return fixed_s + (self._curve[i] + rise) + attention

    def chunk_within(self, slack_s: float, factor: float, mix: Mix, history_tokens: int) -> int:
        """The largest n whose chunk behind `history_tokens` keeps factor * mixed_s <= slack_s.

        Solves the piece that is greatest for most of the chunk that would fit if attention cost no
        more with it than without, a usual answer, then the one that binds at what comes out, until
        none does. Whether n fits is asked of the same operations in the same order as in `mixed_s`,
        so that rounding can't part the two.
        """
        decodes, context, chunks, tokens, history, pairs, squares = mix
        rows = decodes + tokens
        fixed_s = self._decode_s * decodes + self._chunk_s * (chunks + 1)
        product = decodes * context
        root = sqrt(squares)
        history += history_tokens
        room_s = slack_s / factor - fixed_s
        bounds, least = [], 0.0
        for fixed, k, k_b, k_r, h, a in self._pieces:
            constant = fixed + k * context + k_b * product + k_r * root + h * history
            bounds.append((constant, a))
            if constant + a * pairs > least:
                least = constant + a * pairs
        n = min(self._rows_within(room_s - least) - rows, MOST_TOKENS)
        usual = n * USUAL
        more = pairs + usual * (history_tokens + usual * 0.5)
        greatest, most = _NO_PIECE, 0.0
        for bound in bounds:
            constant, a = bound
            if constant + a * more > most:
                greatest, most = bound, constant + a * more
        asked = _Question(self, slack_s, factor, fixed_s, rows, pairs, history_tokens, bounds)
        return self._searched(asked, room_s, n, greatest)

    def _searched(self, asked: _Question, room_s: float, n: int, greatest: Bound) -> int:
        """Solve for one piece after the other until none binds, from at most n tokens down."""
        stride, is_largest = 0, False
        bound: Bound | None = greatest
        while n > 0 and bound:
            constant, a = bound
            left_s = room_s - constant - a * asked.pairs
            linear, square = a * asked.history_tokens, a / 2
            found, is_largest = self._solved(left_s, linear, square, asked.rows, n)
            is_largest = is_largest and found <= n - stride
            n = min(n - stride, found)
            stride = 2 * stride or 1
            bound = asked.binding(n) if n > 0 else None
        n = max(n, 0)
        if is_largest or n >= MOST_TOKENS or asked.binding(n + 1):
            return n
        return _grown(n + 1, asked.binding)

    def curve_s(self, rows: int) -> float:
        """The matrix products' time."""
        i = bisect_right(self._knots, rows) - 1
        return self._curve[i] + self._slopes[i] * (rows - self._knots[i])

    def _rows_within(self, room_s: float) -> int:
        """The most rows whose curve alone stays within `room_s`."""
        i = bisect_right(self._curve, room_s) - 1
        if i < 0:
            return 0
        slope = self._slopes[i]
        if i == self._last and slope * MOST_TOKENS <= room_s:
            return 2 * MOST_TOKENS
        return int(self._knots[i] + (room_s - self._curve[i]) / slope)

    def _solved(
        self, room_s: float, linear: float, square: float, rows: int, most: int
    ) -> tuple[int, bool]:
        """The largest n <= most with curve(rows + n) + linear n + square n^2 <= room_s.

        Also whether n + 1 misses by so much more than rounding that nobody needs to look.
        """
        knots, curve = self._knots, self._curve
        low = bisect_right(knots, rows) - 1
        high = bisect_right(knots, rows + most) - 1
        while low < high:  # the last knot that still fits
            middle = (low + high + 1) // 2
            n = knots[middle] - rows
            if curve[middle] + (linear + square * n) * n <= room_s:
                low = middle
            else:
                high = middle - 1
        slope = self._slopes[low]
        left_s = room_s - curve[low] - slope * (rows - knots[low])
        if left_s < 0:
            return 0, False
        rise = slope + linear
        rise_there = sqrt(rise * rise + 4 * square * left_s)
        if not rise_there:
            return most, False
        real = 2 * left_s / (rise + rise_there)  # stable for a tiny square
        whole = int(min(real, most))
        in_segment = low == self._last or rows + whole + 1 <= knots[low + 1]
        misses_s = rise_there * (whole + 1 - real)
        return whole, in_segment and misses_s > 1e-12 * room_s


class _Question(NamedTuple):
    """Which n keep a chunk of n tokens behind `history_tokens` within `slack_s`.

    `rows`, `pairs` and `fixed_s` are what the mix has without it.
    """

    form: Form
    slack_s: float
    factor: float
    fixed_s: float
    rows: int
    pairs: float
    history_tokens: int
    bounds: list[Bound]

    def binding(self, n: int) -> Bound | None:
        """The piece that keeps n tokens from fitting; None where they fit."""
        attention, greatest = 0.0, _NO_PIECE
        more = self.pairs + n * (self.history_tokens + n / 2)
        for piece in self.bounds:
            constant, a = piece
            value = constant + a * more
            if value > attention:
                attention = value
                greatest = piece
        total = self.fixed_s + self.form.curve_s(self.rows + n) + attention
        return None if total * self.factor <= self.slack_s else greatest


def _grown(n: int, binding: Callable[[int], object]) -> int:
    """The largest n that nothing binds, from one that nothing binds: doubled strides, then halved.

    Needed only where rounding hid it from the closed form.
    """
    stride = 1
    while n + stride <= MOST_TOKENS and binding(n + stride) is None:
        n += stride
        stride *= 2
    while stride > 1:
        stride //= 2
        if n + stride <= MOST_TOKENS and binding(n + stride) is None:
            n += stride
    return n
