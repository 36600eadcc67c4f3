"""Would a replica keep its promises with one more? The demand-bound test in a form of O(prompts).

Until each due time a replica must compute all prompts due by then, in what the iterations of its
decodes leave of the time: they come as often as the tightest asks for, each at its fixed cost.
Seconds, tokens.
"""

from __future__ import annotations

from bisect import insort
from dataclasses import dataclass, field
from math import inf

from hfx.request import Mix

from .dispatch_view import ReplicaView
from .policy import Live
from .prices import prompt_s
from .track import RUN_RATE

LEAST_SHARE = 0.05  # of the time that prompts get, whatever decodes need
MOST_SHARE = 0.95


def due_s(live: Live) -> float:
    """When a request's prompt is due; never where nothing says so."""
    promise = live.request.objective
    if promise.ttft_s is not None:
        return live.arrival_s + promise.ttft_s
    return inf


def tpot_s(live: Live) -> float:
    """Its time per token; unbounded where nothing says so."""
    return live.request.objective.tpot_s or inf


@dataclass(slots=True)
class Fit:
    """One replica as it will be when its present step ends.

    `prompts` are (due, work) of what is bound and not computed, `work_s` their sum.
    """

    view: ReplicaView
    start_s: float
    decodes: int = 0
    context_tokens: int = 0
    tightest_s: float = inf
    base_s: float = 0.0
    prompts: list[tuple[float, float]] = field(default_factory=list)
    work_s: float = 0.0
    blocks: int = 0

    @classmethod
    def of(cls, view: ReplicaView, now_s: float) -> Fit:
        """From what is known of the replica, brought forward to now."""
        view.advance(now_s)
        fit = cls(view, max(now_s, view.boundary_s), blocks=view.free_blocks)
        for live in view.running:
            if live.output_tokens and live.known_tokens - live.cached_tokens == 1:
                fit.decodes += 1
                fit.context_tokens += live.known_tokens
                fit.tightest_s = min(fit.tightest_s, tpot_s(live))
            else:
                fit.add(live)
        for live in view.waiting:
            fit.add(live)
        if fit.decodes:
            fit.base_s = view.cost.step_s(Mix(fit.decodes, fit.context_tokens)).mean_s
        return fit

    def add(self, live: Live) -> None:
        """Count a prompt that is bound."""
        work_s = prompt_s(self.view.cost, live.wanted_tokens, live.cached_tokens)
        insort(self.prompts, (due_s(live), work_s))
        self.work_s += work_s
        self.tightest_s = min(self.tightest_s, tpot_s(live))
        size = self.view.block_tokens
        self.blocks -= max(0, -(-live.known_tokens // size) - live.held_blocks)

    def laxity_s(self, due: float, work_s: float, tpot: float) -> float:
        """The least time to spare at any due time with one more prompt; below 0 it doesn't fit."""
        share = self.share(tpot)
        total_s, least_s, is_new = 0.0, inf, True
        for at_s, each_s in self.prompts:
            if is_new and at_s > due:
                total_s += work_s
                least_s = min(least_s, due - self.start_s - total_s / share)
                is_new = False
            total_s += each_s
            if at_s < inf and at_s > self.start_s:  # what is late already is spare work
                least_s = min(least_s, at_s - self.start_s - total_s / share)
        if is_new:
            total_s += work_s
            least_s = min(least_s, due - self.start_s - total_s / share)
        return least_s

    def share(self, tpot: float = inf) -> float:
        """Of its time, what prompts get beside its decodes, and one more of that pace."""
        pace_s = RUN_RATE * min(self.tightest_s, tpot)
        if pace_s == inf or not self.decodes:
            return MOST_SHARE
        return min(MOST_SHARE, max(LEAST_SHARE, 1 - self.base_s / pace_s))
