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
LOST_S = 0.2  # of work: a late prompt that has more left holds nobody up
STEP_TOKENS = 2048  # of the longest step that prompts are bound for
FIRST = Mix.one(64, 0)  # a prompt's first tokens: with them a step of streams becomes a mixed one
CALIBRATION_TOKENS = 1024  # of the prompt by which replicas are compared


def due_s(live: Live) -> float:
    """When a request's prompt is due; never where nothing says so.

    Of a deadline it may take half: how long its output will take is its replica's to say.
    """
    promise = live.request.objective
    if promise.ttft_s is not None:
        return live.arrival_s + promise.ttft_s
    return live.arrival_s + promise.deadline_s / 2 if promise.deadline_s is not None else inf


def tpot_s(live: Live) -> float:
    """Its time per token; unbounded where nothing says so."""
    return live.request.objective.tpot_s or inf


@dataclass(frozen=True, slots=True)
class Speed:
    """What one replica's prices come down to: a step's fixed cost, what a prompt's first tokens
    add, the prompts of the longest step, and a prompt by which replicas are compared."""

    fixed_s: float
    first_s: float
    step_work_s: float
    prompt_s: float

    @classmethod
    def of(cls, view: ReplicaView) -> Speed:
        """By its cost model as it is now."""
        cost = view.cost
        tokens = FIRST.prefill_tokens, STEP_TOKENS, CALIBRATION_TOKENS
        return cls(fixed_s(cost), *(prompt_s(cost, count, 0) for count in tokens))


@dataclass(slots=True)
class Fit:
    """`prompts` are (due, work) of what is bound and not computed, `work_s` their sum; `slack_s` is
    how long all of its streams can do without a step. `base_s` is a step of its streams alone,
    `mixed_s` what they cost in a step with prompts, where each may cost more."""

    view: ReplicaView
    speed: Speed
    start_s: float
    decodes: int = 0
    context_tokens: int = 0
    tightest_s: float = inf
    slack_s: float = inf
    base_s: float = 0.0
    mixed_s: float = 0.0
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
        fit.price()
        return fit

    def price(self) -> None:
        """Price steps of the streams that there are."""
        self.base_s = self.mixed_s = self.step_s()
        if self.decodes:
            beside = Mix(self.decodes, self.context_tokens)
            first_s = self.view.cost.step_s(beside + FIRST).mean_s
            self.mixed_s = max(self.base_s, first_s - self.speed.first_s)

    def step_s(self, more: int = 0, context_tokens: int = 0) -> float:
        """A step of its decodes alone, and of some more."""
        decodes = self.decodes + more
        if not decodes:
            return self.speed.fixed_s
        return self.view.cost.step_s(Mix(decodes, self.context_tokens + context_tokens)).mean_s

    def add(self, live: Live) -> None:
        """Count a prompt that is bound.

        One that is late still counts as long as it is small: its replica is behind. What is left of
        a large one is spare work that waits for others.
        """
        work_s = prompt_s(self.view.cost, live.wanted_tokens, live.cached_tokens)
        due = due_s(live)
        if due < self.start_s and not live.output_tokens and work_s > LOST_S:
            due = inf
        insort(self.prompts, (due, work_s))
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
        step_s = min(pace_s, self.mixed_s + self.speed.step_work_s)
        return min(MOST_SHARE, max(LEAST_SHARE, 1 - self.mixed_s / step_s))

    def free_s(self) -> float:
        """How long its streams can do without a step, as far as that may be spent."""
        return max(0.0, SPEND * self.slack_s) if self.slack_s < inf else 0.0

    def window_s(self) -> float:
        """The prompt work that its next step can hold."""
        most_s = self.speed.step_work_s
        if self.tightest_s == inf:
            return most_s
        step_s = max(self.free_s(), SUSTAINED * self.tightest_s)
        return min(most_s, max(0.0, step_s - self.mixed_s))

    def laxity_s(self, due: float, work_s: float, tpot: float) -> float:
        """The least time to spare with one more prompt, of its own and of those that are due later
        and would be in time without it; below 0 it doesn't fit."""
        share, free_s = self.share(tpot), self.free_s()
        first_s = self.start_s + self.mixed_s
        before_s = self.ahead_s(due)
        least_s = due - first_s - _taking_s(before_s + work_s, share, free_s)
        for at_s, each_s in self.prompts:
            if not due < at_s < inf:
                continue
            before_s += each_s
            left_s = at_s - first_s
            if _taking_s(before_s, share, free_s) <= left_s:
                least_s = min(least_s, left_s - _taking_s(before_s + work_s, share, free_s))
        return least_s

    def done_s(self, due: float, work_s: float, tpot: float) -> float:
        """When a prompt of that work would be done, behind those that are due before it."""
        work_s += self.ahead_s(due)
        return self.start_s + self.mixed_s + _taking_s(work_s, self.share(tpot), self.free_s())


def _taking_s(work_s: float, share: float, free_s: float) -> float:
    """How long prompts take: as long as decodes can wait they get all of the time, then a share."""
    if work_s <= free_s:
        return work_s
    return (work_s - (1 - share) * free_s) / share
