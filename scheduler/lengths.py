"""How long outputs become: what each tier's ended requests say of those that are still running.

Empirical survival with a memoryless prior, over the last few hundred ends of a tier. Tokens.
"""

from collections import deque
from math import exp

import numpy as np
from numpy.typing import NDArray

from hfx.request import Request

REMEMBERED = 400  # ends of a tier: older ones say less about the traffic of now
PRIOR_MEAN = 128.0  # tokens that are expected of an output before any has been seen
PRIOR_WEIGHT = 4.0  # ends that the prior counts for
STRIDE = 16  # tokens between two points of a table

Array = NDArray[np.float64]
NONE: Array = np.zeros(0)


class Survival:
    """The lengths of one tier's outputs."""

    def __init__(self) -> None:
        self._recent: deque[int] = deque()
        self._points = _Points()
        self._table: list[float] = []
        self._most = PRIOR_MEAN

    def learn(self, output_tokens: int) -> None:
        """Take in the length of an output that ended by itself."""
        if len(self._recent) == REMEMBERED:
            self._points.count(self._recent.popleft(), -1)
        self._recent.append(output_tokens)
        self._points.count(output_tokens, 1)
        self._table = []

    def remaining(self, output_tokens: int) -> float:
        """The expected tokens to come of an output that is that long already."""
        table = self._table or self._tabled()
        index = output_tokens // STRIDE
        return table[index] if index < len(table) else PRIOR_MEAN

    def _tabled(self) -> list[float]:
        """Expected remaining lengths at 0, STRIDE, 2 STRIDE, ... up to the longest output."""
        self._table = table = self._points.remaining(max(self._recent, default=0))
        self._most = max(PRIOR_MEAN, *table)
        return table

    @property
    def most(self) -> float:
        """What `remaining` never exceeds."""
        if not self._table:
            self._tabled()
        return self._most


class _Points:
    """At 0, STRIDE, 2 STRIDE, ... tokens (P): how many outputs are longer, and the sum of those."""

    def __init__(self) -> None:
        self._longer_P = self._total_P = self._prior_P = self._at_P = NONE

    def count(self, output_tokens: int, times: int) -> None:
        """Take in an output, or out with -1; the sums are whole numbers, so nothing is lost."""
        end = -(-output_tokens // STRIDE)
        if end > len(self._at_P):
            self._grow(end)
        self._longer_P[:end] += times
        self._total_P[:end] += times * output_tokens

    def remaining(self, longest: int) -> list[float]:
        """The expected tokens to come at every point up to the longest output."""
        count = -(-longest // STRIDE) + 1
        if count > len(self._at_P):
            self._grow(count)
        longer_P, prior_P = self._longer_P[:count], self._prior_P[:count]
        come_P = self._total_P[:count] - longer_P * self._at_P[:count] + prior_P * PRIOR_MEAN
        table: list[float] = (come_P / (longer_P + prior_P)).tolist()
        return table

    def _grow(self, count: int) -> None:
        more = np.zeros(2 * count - len(self._at_P))
        self._longer_P = np.concatenate((self._longer_P, more))
        self._total_P = np.concatenate((self._total_P, more))
        self._at_P = np.arange(2 * count, dtype=np.float64) * STRIDE
        self._prior_P = np.asarray([PRIOR_WEIGHT * exp(-at / PRIOR_MEAN) for at in self._at_P])


class Lengths:
    """Expected output lengths of requests, by tier, learned as requests end."""

    def __init__(self) -> None:
        self._tiers: dict[str, Survival] = {}
        self._longest_hint = 0

    @property
    def most(self) -> float:
        """What `remaining` exceeds for no request that was heard of."""
        return max(self._longest_hint, *(tier.most for tier in self._tiers.values()), 1.0)

    def hear(self, request: Request) -> None:
        """Take in a request that has come: its hint bounds what is expected."""
        self._longest_hint = max(self._longest_hint, request.expected_output_tokens or 0)
        self._tier(request)

    def learn(self, request: Request, output_tokens: int) -> None:
        """Take in a request that ended by itself, or at its own limit."""
        self._tier(request).learn(output_tokens)

    def remaining(self, request: Request, output_tokens: int) -> float:
        """The expected tokens still to come, at least 1: the client's hint while it holds, then
        what the tier's other requests did."""
        most = request.sampling.max_tokens - output_tokens
        hint = request.expected_output_tokens
        if hint is not None and hint > output_tokens:
            return max(1.0, min(hint - output_tokens, most))
        return max(1.0, min(self._tier(request).remaining(output_tokens), most))

    def sure(self, request: Request, output_tokens: int) -> int:
        """How many tokens are sure to come: those that the request demands, or its client hints."""
        hint = request.expected_output_tokens or 0
        return max(0, max(request.sampling.min_tokens, hint) - output_tokens)

    def _tier(self, request: Request) -> Survival:
        tier = request.objective.tier
        survival = self._tiers.get(tier)
        if survival is None:
            survival = self._tiers[tier] = Survival()
        return survival
