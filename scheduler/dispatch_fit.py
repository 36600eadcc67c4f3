"""One replica as it will be when its present step ends: would it keep its promises with one more?

The demand-bound test in a form of O(prompts): until each due time a replica must compute all
prompts due by then, in what the iterations of its decodes leave of the time. These come as often as
the tightest stream asks for, each at its fixed cost, but for the slack that streams have gathered.
Seconds, tokens.
"""

from __future__ import annotations

from bisect import insort
from dataclasses import dataclass, field
from math import inf

from hfx.request import Mix

from .decodes import SPEND
from .dispatch_view import ReplicaView
from .policy import Live
from .prices import fixed_s, prompt_s

LEAST_SHARE = 0.05  # of the time that prompts get, whatever decodes need
MOST_SHARE = 0.9
SUSTAINED = 0.95  # of TPOT: as long may steps be on average
STEP_TOKENS = 2048  # of the longest step that prompts are bound for
LEAST_WINDOW = 0.5  # times a step of decodes: prompt work that may wait at a replica in any case
CALIBRATION_TOKENS = 1024  # of the prompt by which replicas are compared


def due_s(live: Live) -> float:
    """When a request's prompt is due; never where nothing says so."""
    promise = live.request.objective
    if promise.ttft_s is not None:
        return live.arrival_s + promise.ttft_s
    return inf


def tpot_s(live: Live) -> float:
    """Its time per token; unbounded where nothing says so."""
    return live.request.objective.tpot_s or inf


@dataclass(frozen=True, slots=True)
class Speed:
    """What one replica's prices come down to: a step's fixed cost, the prompts of the longest step,
    and a prompt by which replicas are compared."""

    fixed_s: float
    step_work_s: float
    prompt_s: float

    @classmethod
    def of(cls, view: ReplicaView) -> Speed:
        """By its cost model as it is now."""
        cost = view.cost
        return cls(
            fixed_s(cost), prompt_s(cost, STEP_TOKENS, 0), prompt_s(cost, CALIBRATION_TOKENS, 0)
        )


@dataclass(slots=True)
class Fit:
    """`prompts` are (due, work) of what is bound and not computed, `work_s` their sum; `slack_s` is
    how long all of its streams can do without a step."""

    view: ReplicaView
    speed: Speed
    start_s: float
    decodes: int = 0
    context_tokens: int = 0
    tightest_s: float = inf
    slack_s: float = inf
    base_s: float = 0.0
    prompts: list[tuple[float, float]] = field(default_factory=list)
    work_s: float = 0.0
    blocks: int = 0

    @classmethod
    def of(cls, view: ReplicaView, speed: Speed, now_s: float) -> Fit:
        """From what is known of the replica, brought forward to now."""
        view.advance(now_s)
        fit = cls(view, speed, max(now_s, view.boundary_s), blocks=view.free_blocks)
        decodes = context = 0
        tightest_s = slack_s = inf
        for live in view.running:
            output, known = live.output_tokens, live.known_tokens
            if not output or known - live.cached_tokens != 1:
                fit.add(live)
                continue
            decodes += 1
            context += known
            tpot = live.request.objective.tpot_s
            if tpot is not None and live.first_token_s is not None:
                if tpot < tightest_s:
                    tightest_s = tpot
                left_s = live.first_token_s + output * tpot
                if left_s < slack_s:
                    slack_s = left_s
        fit.decodes, fit.context_tokens, fit.tightest_s = decodes, context, tightest_s
        fit.slack_s = slack_s - fit.start_s
        for live in view.waiting:
            fit.add(live)
        for live in view.incoming:
            fit.join(live)
        fit.base_s = fit.step_s()
        return fit

    def step_s(self, more: int = 0, context_tokens: int = 0) -> float:
        """A step of its decodes alone, and of some more."""
        decodes = self.decodes + more
        if not decodes:
            return self.speed.fixed_s
        return self.view.cost.step_s(Mix(decodes, self.context_tokens + context_tokens)).mean_s

    def add(self, live: Live) -> None:
        """Count a prompt that is bound."""
        work_s = prompt_s(self.view.cost, live.wanted_tokens, live.cached_tokens)
        insort(self.prompts, (due_s(live), work_s))
        self.work_s += work_s
        size = self.view.block_tokens
        self.blocks -= max(0, -(-live.known_tokens // size) - live.held_blocks)

    def join(self, live: Live) -> None:
        """Count a stream that comes from elsewhere, with blocks reserved."""
        self.decodes += 1
        self.context_tokens += live.known_tokens
        self.tightest_s = min(self.tightest_s, tpot_s(live))

    def ahead_s(self, due: float) -> float:
        """The work of prompts that are served before one that is due then."""
        return sum(work_s for at_s, work_s in self.prompts if at_s <= due)

    def share(self, tpot: float = inf) -> float:
        """Of its time, what prompts get beside its decodes, and one more of that pace."""
        pace_s = SUSTAINED * min(self.tightest_s, tpot)
        step_s = min(pace_s, self.base_s + self.speed.step_work_s)
        return min(MOST_SHARE, max(LEAST_SHARE, 1 - self.base_s / step_s))

    def free_s(self) -> float:
        """How long its streams can do without a step, as far as that may be spent."""
        return max(0.0, SPEND * self.slack_s) if self.slack_s < inf else 0.0

    def window_s(self) -> float:
        """The prompt work that its next step can hold."""
        most_s = self.speed.step_work_s
        if self.tightest_s == inf:
            return most_s
        step_s = max(self.free_s(), SUSTAINED * self.tightest_s)
        return min(most_s, max(LEAST_WINDOW * self.base_s, step_s - self.base_s))

    def laxity_s(self, due: float, work_s: float, tpot: float) -> float:
        """The least time to spare at any due time with one more prompt; below 0 it doesn't fit.

        What is late already is spare work, and waits.
        """
        share, free_s = self.share(tpot), self.free_s()
        first_s = self.start_s + self.base_s
        total_s, least_s, is_new = 0.0, inf, True
        for at_s, each_s in self.prompts:
            if is_new and at_s > due:
                total_s += work_s
                least_s = min(least_s, due - first_s - _taking_s(total_s, share, free_s))
                is_new = False
            total_s += each_s
            if first_s < at_s < inf:
                least_s = min(least_s, at_s - first_s - _taking_s(total_s, share, free_s))
        if is_new:
            total_s += work_s
            least_s = min(least_s, due - first_s - _taking_s(total_s, share, free_s))
        return least_s

    def done_s(self, due: float, work_s: float, tpot: float) -> float:
        """When a prompt of that work would be done, behind those that are due before it."""
        work_s += self.ahead_s(due)
        return self.start_s + self.base_s + _taking_s(work_s, self.share(tpot), self.free_s())


def _taking_s(work_s: float, share: float, free_s: float) -> float:
    """How long prompts take: as long as decodes can wait they get all of the time, then a share."""
    if work_s <= free_s:
        return work_s
    return (work_s - (1 - share) * free_s) / share
