"""Stands for a device: takes as long as a cost model says, and answers with made-up tokens.

So a real server, its queue and its scheduler can be tried at the speed of hardware that isn't here.
Nothing is computed, and nothing imports torch. Seconds.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from hfx.cost import StepCost

from .batch import Sampled, StepBatch, StepOutput
from .delta import TokenLogprob

PREFIX = "emulated:"


class EmulatedExecutor:
    """Implements `Executor`. `tokens` are what outputs are made of, over and over.

    `now_s` and `wait` are the clock that steps take their time on.

    Raises:
        ValueError: there are no tokens.
    """

    def __init__(
        self,
        cost: StepCost,
        tokens: Sequence[int],
        *,
        now_s: Callable[[], float] = time.monotonic,
        wait: Callable[[float], None] = time.sleep,
    ) -> None:
        if not tokens:
            raise ValueError("tokens is empty: an output needs something to be made of")
        self._cost = cost
        self._tokens = tuple(tokens)
        self._now_s = now_s
        self._wait = wait

    def execute(self, batch: StepBatch) -> StepOutput:
        """See `Executor.execute`; the answer is there when the device would have it."""
        ends_s = self._now_s() + self._cost.step_s(batch.mix).mean_s
        sampled = [self._sampled(draw.index, draw.forbidden) for draw in batch.draws]
        self._wait(max(0.0, ends_s - self._now_s()))
        return StepOutput(sampled)

    def _sampled(self, index: int, forbidden: Sequence[int]) -> Sampled:
        allowed = [t for t in self._tokens if t not in forbidden] if forbidden else self._tokens
        token = (allowed or self._tokens)[index % len(allowed or self._tokens)]
        return Sampled(token, TokenLogprob(token, 0.0, 1))
