"""Which policies, shown the same decodes again, plan them all again: what may be jumped over.

The answer must be sure, not likely: token times are the same as if every step were planned.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import inf

from hfx.scheduler import Live, StepPolicy
from hfx.scheduler.fcfs import FirstComeFirstServed
from hfx.scheduler.relatives import ScorpioLike
from hfx.scheduler.step import SlackPolicy
from hfx.scheduler.track import RUN_RATE

Steady = Callable[[Sequence[Live], float, float], bool]
Repeated = Callable[[Sequence[float], float], None]


def steadiness(policy: StepPolicy) -> Steady | None:
    """Whether decodes that are all there is go on being planned one token each, until somebody
    comes, ends or lacks blocks; None where one can't know.

    The answer's arguments: those running, the time, the longest of the steps to come.
    """
    if isinstance(policy, SlackPolicy):
        return _slack_is_steady
    if isinstance(policy, FirstComeFirstServed) and not isinstance(policy, ScorpioLike):
        return lambda running, now_s, step_s: len(running) <= policy.max_step_tokens
    return None


def repetition(policy: StepPolicy) -> Repeated | None:
    """How a policy is told at which times its last plan was carried out again, and what the last
    of these steps costs, if it cares."""
    return policy.repeated if isinstance(policy, SlackPolicy) else None


def _slack_is_steady(running: Sequence[Live], now_s: float, step_s: float) -> bool:
    """Nobody is behind, or can fall behind in steps of `step_s`: nobody sits out or is given up."""
    for live in running:
        promise = live.request.objective
        if promise.deadline_s is not None:
            return False
        tpot_s = promise.tpot_s or inf
        assert live.first_token_s is not None
        if step_s > RUN_RATE * tpot_s or (now_s > live.first_token_s + live.output_tokens * tpot_s):
            return False
    return True
