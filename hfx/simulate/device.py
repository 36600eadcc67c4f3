"""How long a simulated device takes: what a cost model says, slowed, and with noise if wanted.

Seconds, tokens. Steps of decodes that follow each other are priced at once.
"""

from __future__ import annotations

from bisect import bisect_right

import numpy as np
from numpy.typing import NDArray

from hfx.cost import StepCost
from hfx.request import Mix

MEAN_TO_SIGMA = 1.2533  # of a normal distribution: its deviation over its mean absolute value

Array = NDArray[np.float64]
COUNT = np.arange(1 << 10, dtype=np.int64)


class Device:
    """The truth about one replica's speed.

    `slowdown` multiplies every step, `host_s` is added to it. `noise` scales the error that the
    profile itself reports for its regimes: 1 is as much as was measured, 0 none.

    Raises:
        ValueError: the slowdown is not above 0, or another number is negative.
    """

    def __init__(
        self,
        model: StepCost,
        *,
        slowdown: float = 1.0,
        host_s: float = 0.0,
        noise: float = 0.0,
        seed: tuple[int, ...] = (0,),
    ) -> None:
        if not slowdown > 0 or not host_s >= 0 or not noise >= 0:
            raise ValueError(
                f"slowdown is {slowdown}, host_s {host_s}, noise {noise}: the first must be above "
                "0, the others at least 0"
            )
        self.model = model
        self.slowdown = slowdown
        self.host_s = host_s
        self.noise = noise
        self._rng = np.random.Generator(np.random.PCG64(np.random.SeedSequence(seed)))
        report = model.report
        self._sigma = tuple(
            noise * MEAN_TO_SIGMA * (report[name].mape if name in report else 0.05)
            for name in ("decode", "mixed")
        )
        decode = model.decode
        self._slopes = (
            *(
                (decode.curve_s[i + 1] - decode.curve_s[i])
                / (decode.knots_tokens[i + 1] - decode.knots_tokens[i])
                for i in range(len(decode.curve_s) - 1)
            ),
            decode.per_token_s,
        )

    def step_s(self, mix: Mix) -> float:
        """How long a step takes."""
        took_s = self.model.step_s(mix).mean_s * self.slowdown
        if self.noise:
            sigma = self._sigma[1 if mix.prefill_tokens else 0]
            took_s *= float(np.exp(sigma * self._rng.standard_normal() - sigma * sigma / 2))
        return took_s + self.host_s

    def decode_ends_s(
        self, now_s: float, steps: int, decodes: int, context: int, squares: int
    ) -> Array:
        """When each of `steps` steps of the same decodes ends, the first of which does the mix
        (decodes, context, squares), and every one lengthens every context by one.

        The same numbers to the last bit as one `step_s` after the other. Without noise only.
        """
        assert not self.noise, "noise is drawn step by step"
        n = COUNT[:steps] if steps <= len(COUNT) else np.arange(steps, dtype=np.int64)
        took_s = self._decodes_s(decodes, context, squares, n)
        ends_s = np.empty(steps + 1)
        ends_s[0] = now_s
        ends_s[1:] = took_s * self.slowdown + self.host_s
        return np.add.accumulate(ends_s)[1:]  # in order, as a loop would add

    def _decodes_s(self, decodes: int, context: int, squares: int, n: NDArray[np.int64]) -> Array:
        """`Regime`'s form n steps later, operation for operation, but for what adds 0."""
        regime, context_n = self.model.decode, context + decodes * n
        attention: Array = np.zeros(len(n))
        root: Array | None = None
        for piece in regime.pieces:
            value = piece.fixed_s + piece.per_decode_context_token_s * context_n
            if piece.per_decode_times_context_token_s:
                value += piece.per_decode_times_context_token_s * (decodes * context_n)
            if piece.per_root_of_context_squares_s:
                if root is None:
                    root = np.sqrt(squares + n * (2 * context) + decodes * (n * n))
                value += piece.per_root_of_context_squares_s * root
            np.maximum(attention, value, out=attention)
        i = bisect_right(regime.knots_tokens, decodes) - 1
        rise = self._slopes[i] * (decodes - regime.knots_tokens[i])
        fixed_s = regime.per_decode_s * decodes + (regime.curve_s[i] + rise)
        total: Array = (fixed_s + attention) * self.model.factors.decode_mean
        return total
