"""Stands for a device: takes as long as a cost model says, and answers with made-up tokens.

So a real server, its queue and its scheduler can be tried at the speed of hardware that isn't here.
Nothing is computed, and nothing imports torch. Seconds.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from hfx.cost import StepCost
from hfx.request import Mix

from .batch import Sampled, StepBatch, StepOutput
from .delta import TokenLogprob
from .draw import Draw


class EmulatedExecutor:
    """Implements `Executor`. `tokens` are what outputs are made of, over and over.

    A step begins when it is handed over: what its host computes before counts, as on a device that
    is idle meanwhile. That the host was woken late from the step before does not count, because
    many emulated devices share the cores of one machine, and devices share nothing: the next step
    is shorter by so much. `now_s` and `wait` are the clock that steps take their time on.

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
        self._sampled = tuple(Sampled(token, TokenLogprob(token, 0.0, 1)) for token in tokens)
        self._now_s = now_s
        self._wait = wait
        self._ended_s = self._woke_s = 0.0  # the last step, and when its host went on
        self.late_s = 0.0  # in all: how long after the ends of steps their host was woken

    def execute(self, batch: StepBatch) -> StepOutput:
        """See `Executor.execute`; the answer is there when the device would have it."""
        took_s = self._cost.step_s(batch.mix).mean_s
        ends_s = self._begins_s(batch.mix, took_s) + took_s
        sampled = [self._choose(draw) for draw in batch.draws]
        self._wait(max(0.0, ends_s - self._now_s()))
        self._woke_s = max(self._now_s(), ends_s)
        self._ended_s = ends_s
        self.late_s += self._woke_s - ends_s
        return StepOutput(sampled)

    def _begins_s(self, mix: Mix, took_s: float) -> float:
        """When the device gets to work: earlier than now by what its host was woken too late.

        Not where nobody decodes: then the host may have had nothing to do meanwhile.
        """
        late_s = self._woke_s - self._ended_s if mix.decodes else 0.0
        return self._now_s() - min(late_s, took_s)

    def _choose(self, draw: Draw) -> Sampled:
        at = draw.index % len(self._sampled)
        chosen = self._sampled[at]
        if chosen.token_id not in draw.forbidden:
            return chosen
        allowed = (
            s for s in self._sampled[at:] + self._sampled if s.token_id not in draw.forbidden
        )
        return next(allowed, chosen)
