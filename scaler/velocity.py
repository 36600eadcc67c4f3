"""Scaling by token velocity: how fast tokens arrive, over how fast a replica gets rid of them.

After TokenScale (arXiv 2512.03416): each stage has a velocity, the most tokens per second that one
replica can take through it, and needs as many replicas as the arrival rate of its tokens over that.
The rate of arrivals leads; queues and broken promises lag. Outputs are expected to be as long as
those of the class that ended lately. Tokens per second.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from math import ceil

from hfx.cost import CostModel
from hfx.request import Mix
from hfx.scheduler.dispatch_view import Role

from .policy import FleetView, Order, ReplicaState, Start, Stop, Totals, resize

PERIOD_S = 1.0
CHUNK = 2048  # tokens of a prefill step
CONTEXT = 1500  # tokens behind a decode
TPOT_S = 0.1  # that decodes are promised, in the paper as here
MOST_DECODES = 256
FIRST_OUTPUT = 128.0  # tokens, before any output has ended


def prefill_velocity(cost: CostModel) -> float:
    """Prompt tokens per second of a replica that does nothing else."""
    return CHUNK / cost.step_s(Mix.one(CHUNK, 0)).mean_s


def decode_velocity(cost: CostModel) -> float:
    """Output tokens per second of a replica as full of decodes as the promise allows."""
    best = 0.0
    decodes = 1
    while decodes <= MOST_DECODES:
        squares = decodes * CONTEXT * CONTEXT
        step_s = cost.step_s(Mix(decodes, decodes * CONTEXT, decode_context_squares=squares)).mean_s
        if step_s > TPOT_S:
            break
        best = max(best, decodes / step_s)
        decodes *= 2
    return best


class TokenVelocity:
    """As many replicas as the tokens of the last `window_s` ask for, times `headroom`.

    It grows at once, and shrinks to the most it wanted in the last `calm_s`. Prefill and decode
    replicas are counted each for itself where there are such.

    Raises:
        ValueError: a number is not above 0.
    """

    def __init__(self, headroom: float = 1.5, window_s: float = 10.0, calm_s: float = 60.0) -> None:
        if not (headroom > 0 and window_s > 0 and calm_s > 0):
            raise ValueError(
                f"headroom {headroom}, window_s {window_s}, calm_s {calm_s}: each must be above 0"
            )
        self.headroom = headroom
        self.window_s = window_s
        self.calm_s = calm_s
        self.wake_s = 0.0
        self._seen: deque[tuple[float, float, float]] = deque()  # time, prompt and output tokens
        self._wanted: dict[Role, deque[tuple[float, int]]] = {}

    def decide(self, view: FleetView) -> Sequence[Order]:
        """See `Scaler.decide`."""
        now_s = view.now_s
        while self.wake_s <= now_s:
            self.wake_s += PERIOD_S
        prompt_rate, output_rate = self._rates(view)
        if not view.replicas:
            return resize(view, 1 if view.held or prompt_rate else 0)
        cost = view.replicas[0].cost
        prompts = self.headroom * prompt_rate / prefill_velocity(cost)
        outputs = self.headroom * output_rate / decode_velocity(cost)
        roles = {one.role for one in view.replicas}
        if roles & {"prefill", "decode"}:
            return [
                *self._resize_role(view, "prefill", prompts),
                *self._resize_role(view, "decode", outputs),
            ]
        wanted = ceil(prompts + outputs)
        wanted = max(wanted, 1 if view.held else 0)
        return resize(view, self._calm("mixed", now_s, view.size, wanted))

    def _rates(self, view: FleetView) -> tuple[float, float]:
        """Prompt and expected output tokens that arrive per second."""
        prompts = sum(totals.prompt_tokens for totals in view.classes.values())
        outputs = sum(_expected(view.classes, totals) for totals in view.classes.values())
        self._seen.append((view.now_s, prompts, outputs))
        while len(self._seen) > 2 and self._seen[1][0] <= view.now_s - self.window_s:
            self._seen.popleft()
        first_s, first_prompts, first_outputs = self._seen[0]
        took_s = max(PERIOD_S, view.now_s - first_s)
        return (prompts - first_prompts) / took_s, max(0.0, outputs - first_outputs) / took_s

    def _calm(self, role: Role, now_s: float, here: int, wanted: int) -> int:
        recent = self._wanted.setdefault(role, deque([(now_s, here)]))
        recent.append((now_s, wanted))
        while recent[0][0] < now_s - self.calm_s:
            recent.popleft()
        return max(count for _, count in recent)

    def _resize_role(self, view: FleetView, role: Role, needed: float) -> list[Order]:
        here = [one for one in view.of("starting", "ready") if one.role == role]
        wanted = self._calm(role, view.now_s, len(here), max(1, ceil(needed)))
        if len(here) < wanted:
            return [Start(wanted - len(here), role)]

        def first_to_go(one: ReplicaState) -> tuple[bool, int, int]:
            return one.state == "ready", one.running + one.waiting, -one.id

        return [Stop(one.id) for one in sorted(here, key=first_to_go)[: len(here) - wanted]]


def _expected(classes: Mapping[str, Totals], totals: Totals) -> float:
    """The output tokens of all requests of a class that have arrived, those to come by the mean."""
    ended = sum(one.ended for one in classes.values())
    if totals.ended:
        mean = totals.output_tokens / totals.ended
    elif ended:
        mean = sum(one.output_tokens for one in classes.values()) / ended
    else:
        mean = FIRST_OUTPUT
    return totals.output_tokens + (totals.arrived - totals.ended) * mean
