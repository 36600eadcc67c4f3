"""What a request could expect of a fleet, and whether somebody in it could keep a promise. Seconds.

The same admission that an engine asks, over the parent's view of each replica.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from heapq import nsmallest

from hfx.config import SchedulerConfig
from hfx.cost import StepCost
from hfx.engine.account import is_promise
from hfx.engine.forecast import Outlook
from hfx.request import FinishReason, Refused, Request
from hfx.scheduler import Snapshot, StepPolicy, build
from hfx.scheduler.admission import Admission
from hfx.scheduler.policies import admission
from hfx.scheduler.policy import Blocks, Live

from .standing import Standing

ASKED = 4  # replicas, those with least to do: each answer looks at a whole load


class Oracle:
    """One for a fleet; lengths of outputs are learned from all replicas together."""

    def __init__(self, config: SchedulerConfig) -> None:
        self._config = config
        self._policy: StepPolicy | None = None
        self._admissions: dict[int, tuple[StepCost, Admission]] = {}

    def ended(self, request: Request, output_tokens: int, reason: FinishReason) -> None:
        """Learn how long an output became."""
        if self._policy is not None:
            self._policy.ended(request, output_tokens, reason)

    def answer(
        self, request: Request, standings: Iterable[Standing], queue: Sequence[Live], now_s: float
    ) -> Refused | None:
        """Why no replica could keep a promise; None: one could, or who knows.

        `queue` are those that wait for any of them.
        """
        if not is_promise(request.objective):
            return None
        best: Refused | None = None
        asked = self._least_loaded(standings)
        for place, standing in enumerate(asked):
            found = self._admission(standing)
            if found is None:
                return None
            view = standing.view
            view.advance(now_s)
            refused = found.answer(
                request,
                _snapshot(standing, queue[place :: len(asked)], now_s),
                view.hit_tokens(request),
            )
            if refused is None:
                return None
            if best is None or refused.retry_after_s < best.retry_after_s:
                best = refused
        return best

    def outlook(
        self, request: Request, standings: Iterable[Standing], queue: Sequence[Live], now_s: float
    ) -> Outlook | None:
        """What the best replica would make of it; None without prices."""
        best: Outlook | None = None
        asked = self._least_loaded(standings)
        for place, standing in enumerate(asked):
            found = self._admission(standing)
            if found is None:
                continue
            standing.view.advance(now_s)
            outlook = found.outlook(
                request,
                _snapshot(standing, queue[place :: len(asked)], now_s),
                standing.view.hit_tokens(request),
            )
            if best is None or outlook.finish_s.mean_s < best.finish_s.mean_s:
                best = outlook
        return best

    @staticmethod
    def _least_loaded(standings: Iterable[Standing]) -> list[Standing]:
        return nsmallest(
            ASKED, standings, key=lambda one: (one.view.prompt_tokens, one.view.requests)
        )

    def _admission(self, standing: Standing) -> Admission | None:
        """By the replica's present prices; None where it has none."""
        if standing.profile is None:
            return None
        known = self._admissions.get(standing.view.id)
        if known is not None and known[0] is standing.cost:
            return known[1]
        if self._policy is None:
            self._policy = build(self._config, standing.cost)
        made = admission(self._config, standing.cost, self._policy)
        self._admissions[standing.view.id] = (standing.cost, made)
        return made


def _snapshot(standing: Standing, queue: Sequence[Live], now_s: float) -> Snapshot:
    view = standing.view
    waiting = sorted((*view.waiting, *queue), key=lambda live: live.arrival_s)
    running = sorted(view.running, key=lambda live: live.arrival_s)
    blocks = Blocks(view.total_blocks, view.free_blocks, view.block_tokens)
    return Snapshot(now_s, running, waiting, blocks)
