"""Whether a promise can be kept beside those already given, and what a request could expect now.

Both answers come from the prices and the present load, before any work is spent. Seconds, tokens.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from math import ceil, inf

from hfx.cost import CostModel, Estimate
from hfx.request import Mix, Objective, Refused, Request

from .demand import Demand, Prompt, Stream
from .lengths import Lengths
from .policy import Live, Snapshot
from .prices import decode_s, fixed_s, idle_ttft_s, prompt_s

SHARE = 0.95  # of the time that promises may fill: the rest is for what prices don't know
HALVINGS = 24  # of the interval in which a best value is searched
ROUNDED = 1.01  # a best value may be rounded up by that much and still be kept
FARTHEST_S = 3600.0  # how far ahead a best value is searched
ROUNDING_S = 1e-6  # what sums of due times may be off by
LEAST_SHARE = 0.05  # of the time that prompts get whatever decodes need
SPREAD = 1.5  # how much longer than expected an output or a queue becomes, for an upper bound

Fits = Callable[["Targets", float], bool]


@dataclass(frozen=True, slots=True)
class Outlook:
    """What a request could expect, from its arrival: first token, time per later one, end."""

    ttft_s: Estimate
    tpot_s: Estimate
    finish_s: Estimate


@dataclass(frozen=True, slots=True)
class Targets:
    """An objective's targets as numbers; infinite where nothing was asked for."""

    ttft_s: float
    tpot_s: float
    deadline_s: float

    @classmethod
    def of(cls, promise: Objective) -> Targets:
        """The targets of a promise."""
        return cls(promise.ttft_s or inf, promise.tpot_s or inf, promise.deadline_s or inf)

    def beyond(self, best: Targets) -> str:
        """Which target is tighter than the best there is; empty where none is."""
        names = [n for n in Targets.__slots__ if getattr(self, n) < getattr(best, n)]
        return names[0] if names else ""


class Admission:
    """Answers for one replica.

    `lengths` and `arriving` (promised prompt work per second, on average) are its policy's, so that
    both expect the same. `share` of the time may be promised; the rest is for what prices and
    lengths don't know.
    """

    def __init__(
        self,
        cost: CostModel,
        lengths: Lengths | None = None,
        *,
        max_step_tokens: int = 2048,
        max_running: int = 256,
        arriving: Callable[[], float] = lambda: 0.0,
        share: float = SHARE,
    ) -> None:
        self.cost = cost
        self.lengths = lengths or Lengths()
        self.max_step_tokens = max_step_tokens
        self.max_running = max_running
        self.arriving = arriving
        self.share = share

    def answer(
        self, request: Request, snapshot: Snapshot, cached_tokens: int = 0
    ) -> Refused | None:
        """Why the request's promise can't be kept if it came now; None where it can.

        The refusal says when asking again makes sense - never (infinite) if the device is too slow
        even with nothing else to do - and the best value of each target that could be kept now,
        the others as they were asked for.
        """
        targets = Targets.of(request.objective)
        length = self.lengths.remaining(request, 0)
        alone = idle(self.cost, request.prompt_tokens, cached_tokens, length, self.max_step_tokens)
        demand = self.demand(snapshot)
        room_s = self._room_s(request, snapshot, cached_tokens)
        work_s = self._work_s(request.prompt_tokens - cached_tokens, cached_tokens)
        each_s = decode_s(self.cost, request.prompt_tokens + length / 2)

        came_s = request.arrival_s or snapshot.now_s

        def fits(wanted: Targets, later_s: float) -> bool:
            if later_s < room_s or wanted.beyond(alone):
                return False
            at_s = snapshot.now_s + later_s if later_s else came_s
            prompt, stream = _asked(demand, wanted, at_s, length, work_s, each_s)
            return demand.excess_with_s(prompt, stream) <= ROUNDING_S

        if fits(targets, 0.0):
            return None
        best = _best(targets, alone, room_s, fits)
        beyond = targets.beyond(alone)
        if beyond:
            at_best_s = getattr(alone, beyond)
            return Refused(
                f"{beyond} of {getattr(targets, beyond):.4g} s is beyond this device: "
                f"{at_best_s:.4g} s with nothing else to do",
                inf,
                best,
            )
        retry_s = _least(lambda later_s: fits(targets, later_s), 0.0)
        why = "the cache has no room" if room_s else "the promises already given take the time"
        return Refused(f"the promise can't be kept now: {why}", retry_s, best)

    def outlook(self, request: Request, snapshot: Snapshot, cached_tokens: int = 0) -> Outlook:
        """What the request could expect if it came now: who is here, and as many to come as lately.

        The bounds are those of the prices, for a queue and an output longer than expected.
        """
        decodes = [live for live in snapshot.running if live.is_decoding]
        beside = Mix.of((1, live.cached_tokens) for live in decodes)
        step = self.cost.step_s(beside + Mix.one(1, max(1, request.prompt_tokens)))
        slow = step.upper_s / step.mean_s
        tight_s = min((_tpot_s(live) for live in decodes), default=inf)
        share = max(LEAST_SHARE, 1 - step.mean_s / tight_s if decodes else 1.0)
        share = max(LEAST_SHARE, share - self.arriving()) if self.arriving() < share else share
        ahead_s = self._ahead_s(request, snapshot)
        own_s = prompt_s(self.cost, request.prompt_tokens - cached_tokens, cached_tokens)
        wait_s = max(self._room_s(request, snapshot, cached_tokens), self._slot_s(snapshot, step))
        first_s = wait_s + step.mean_s + (ahead_s + own_s) / share
        late_s = wait_s * SPREAD + step.upper_s + (SPREAD * ahead_s + own_s) * slow / share
        ttft = Estimate(first_s, max(first_s, late_s))
        later = max(1.0, self.lengths.remaining(request, 0) - 1)
        tpot = self._tpot(request, step, later, self._backlog_s(snapshot))
        most = max(later, min(SPREAD * later, request.sampling.max_tokens - 1))
        finish = Estimate(ttft.mean_s + later * tpot.mean_s, ttft.upper_s + most * tpot.upper_s)
        return Outlook(ttft, tpot, finish)

    def demand(self, snapshot: Snapshot) -> Demand:
        """All that is promised, and not lost already."""
        prompts, streams = [], []
        for live in (*snapshot.running, *snapshot.waiting):
            prompt, stream = self._obligations(live, snapshot.now_s)
            prompts += [prompt] if prompt else []
            streams += [stream] if stream else []
        return Demand(snapshot.now_s, fixed_s(self.cost), self.share, prompts, streams)

    def _work_s(self, tokens: int, history_tokens: int) -> float:
        """A prompt's work with the steps that it needs of its own."""
        steps = -(-tokens // self.max_step_tokens)
        return prompt_s(self.cost, tokens, history_tokens) + steps * fixed_s(self.cost)

    def _obligations(self, live: Live, now_s: float) -> tuple[Prompt | None, Stream | None]:
        """What a live request is still owed; nothing of a promise that is lost already."""
        promise = Targets.of(live.request.objective)
        end_s = live.arrival_s + promise.deadline_s
        left = self.lengths.remaining(live.request, live.output_tokens)
        each_s = decode_s(self.cost, live.known_tokens + left / 2)
        if live.is_decoding:
            assert live.first_token_s is not None
            every_s = min(promise.tpot_s, (end_s - now_s) / left)
            due_s = now_s + every_s
            if every_s == promise.tpot_s:
                due_s = live.first_token_s + live.output_tokens * every_s
            lost = every_s == inf or every_s <= 0 or due_s < now_s - left * every_s
            return None, None if lost else Stream(max(due_s, now_s), every_s, left, each_s)
        work_s = self._work_s(live.wanted_tokens, live.cached_tokens)
        due_s = min(live.arrival_s + promise.ttft_s, end_s - left * each_s)
        if due_s == inf or now_s + work_s > due_s:
            return None, None
        every_s = min(promise.tpot_s, (end_s - due_s) / left)
        prompt = Prompt(due_s, work_s)
        if every_s == inf or left < 2:
            return prompt, None
        return prompt, Stream(due_s + every_s, every_s, left - 1, each_s)

    def _ahead_s(self, request: Request, snapshot: Snapshot) -> float:
        """Prompt work that is served before the request's: due earlier, or begun."""
        own_due_s = _due_s(request.objective, snapshot.now_s)
        total_s = 0.0
        for live in (*snapshot.running, *snapshot.waiting):
            due_s = _due_s(live.request.objective, live.arrival_s)
            if not live.is_decoding and due_s <= own_due_s:
                total_s += prompt_s(self.cost, live.wanted_tokens, live.cached_tokens)
        return total_s

    def _backlog_s(self, snapshot: Snapshot) -> float:
        """All prompt work that is here."""
        return sum(
            prompt_s(self.cost, live.wanted_tokens, live.cached_tokens)
            for live in (*snapshot.running, *snapshot.waiting)
            if not live.is_decoding
        )

    def _tpot(self, request: Request, step: Estimate, later: float, backlog_s: float) -> Estimate:
        """Steps of decodes, and the prompts that are computed between them, up to its promise."""
        load = min(self.arriving(), 0.9)
        mean_s = (step.mean_s + backlog_s / later) / (1 - load)
        promised_s = request.objective.tpot_s
        if promised_s is not None:
            mean_s = max(step.mean_s, min(mean_s, promised_s))
        slow = step.upper_s / step.mean_s
        upper_s = max(mean_s * slow, min(SPREAD * mean_s * slow, promised_s or inf))
        return Estimate(mean_s, upper_s)

    def _slot_s(self, snapshot: Snapshot, step: Estimate) -> float:
        """How long until one of the slots is free for it."""
        over = len(snapshot.running) + len(snapshot.waiting) + 1 - self.max_running
        if over < 1 or not snapshot.running:
            return 0.0
        left = sorted(
            self.lengths.remaining(live.request, live.output_tokens) for live in snapshot.running
        )
        rounds, place = divmod(over - 1, len(left))
        return (left[place] + rounds * left[-1]) * step.mean_s

    def _room_s(self, request: Request, snapshot: Snapshot, cached_tokens: int) -> float:
        """How long until the cache has room for the request at its expected length; 0: it has."""
        blocks = snapshot.blocks
        lengths = self.lengths
        expected = request.prompt_tokens + lengths.remaining(request, 0)
        need = blocks.to_hold(ceil(expected)) - cached_tokens // blocks.block_tokens
        held = []
        for live in snapshot.running:
            left = lengths.remaining(live.request, live.output_tokens)
            whole = blocks.to_hold(ceil(live.known_tokens + left))
            held.append((left, live.held_blocks - live.shared_blocks, whole - live.held_blocks))
        free = blocks.free - sum(grows for _, _, grows in held)
        if need <= free or not held:
            return 0.0
        step_s = self.cost.step_s(Mix.of((1, live.known_tokens) for live in snapshot.running))
        for left, holds, grows in sorted(held):
            free += holds + grows
            if need <= free:
                return left * step_s.mean_s
        return max(left for left, _, _ in held) * step_s.mean_s


def idle(
    cost: CostModel,
    prompt_tokens: int,
    cached_tokens: int,
    output_tokens: float,
    max_step_tokens: int,
) -> Targets:
    """The best that a device can do for a request with nothing else to do."""
    ttft_s = idle_ttft_s(cost, prompt_tokens, cached_tokens, max_step_tokens)
    tpot_s = cost.step_s(Mix.one(1, ceil(prompt_tokens + output_tokens))).mean_s
    return Targets(ttft_s, tpot_s, ttft_s + (output_tokens - 1) * tpot_s)


def reachable(
    objective: Objective,
    cost: CostModel,
    prompt_tokens: int,
    output_tokens: int,
    max_step_tokens: int = 2048,
) -> Refused | None:
    """Whether an idle device can keep a promise for a typical request; None: it can.

    For a server's start: the refusal says which target is out of reach, and the best of each.
    """
    best = idle(cost, prompt_tokens, 0, float(output_tokens), max_step_tokens)
    targets = Targets.of(objective)
    beyond = targets.beyond(best)
    if not beyond:
        return None
    named = {
        name: getattr(best, name) for name in Targets.__slots__ if getattr(targets, name) < inf
    }
    return Refused(
        f"{beyond} of {getattr(targets, beyond):.4g} s is beyond this device: "
        f"{getattr(best, beyond):.4g} s for {prompt_tokens} prompt and {output_tokens} output "
        "tokens with nothing else to do",
        inf,
        named,
    )


def _asked(
    demand: Demand, wanted: Targets, at_s: float, length: float, work_s: float, each_s: float
) -> tuple[Prompt, Stream | None]:
    """What a request asks for that comes at a given time."""
    end_s = at_s + wanted.deadline_s
    every_s = wanted.tpot_s
    due_s = at_s + wanted.ttft_s
    if end_s < inf:
        fastest_s = demand.fixed_s + each_s
        due_s = min(due_s, end_s - (length - 1) * fastest_s)
        every_s = min(every_s, (end_s - due_s) / max(length - 1, 1.0))
    if due_s == inf:  # only its rate is promised
        due_s = max(at_s, demand.done_s) + work_s / demand.share
    stream = None
    if every_s < inf and length >= 2:
        stream = Stream(due_s + every_s, every_s, length - 1, each_s)
    return Prompt(due_s, work_s), stream


def _best(targets: Targets, alone: Targets, room_s: float, fits: Fits) -> dict[str, float]:
    """The best value of each target that was asked for, the others as asked or as they must be."""
    asked = Targets(
        *(max(getattr(targets, name), getattr(alone, name)) for name in Targets.__slots__)
    )
    best = {}
    for name in Targets.__slots__:
        if getattr(targets, name) == inf:
            continue
        least_s = getattr(alone, name)
        given = _given(asked, name, lambda targets: fits(targets, room_s))

        def reaches(value_s: float, name: str = name, given: Targets = given) -> bool:
            near = (value_s, ROUNDED * value_s)  # demand comes in tokens, so it is no smooth curve
            return all(fits(replace(given, **{name: value}), room_s) for value in near)

        best[name] = _least(reaches, least_s) + (room_s if name != "tpot_s" else 0.0)
    return best


def _given(asked: Targets, name: str, fits: Callable[[Targets], bool]) -> Targets:
    """What to keep while one target is searched: the others, unless no value would do with them."""
    if fits(replace(asked, **{name: FARTHEST_S})):
        return asked
    return Targets(inf, inf, inf)


def _least(holds: Callable[[float], bool], start_s: float) -> float:
    """The least value from `start_s` on for which a test holds that holds for all larger ones."""
    if holds(start_s):
        return start_s
    low_s, high_s = start_s, max(2 * start_s, 1e-3)
    while not holds(high_s):
        low_s, high_s = high_s, 2 * high_s
        if high_s > FARTHEST_S:
            return inf
    for _ in range(HALVINGS):
        middle_s = (low_s + high_s) / 2
        low_s, high_s = (low_s, middle_s) if holds(middle_s) else (middle_s, high_s)
        if high_s - low_s < 1e-3 * high_s:
            break
    return high_s


def _tpot_s(live: Live) -> float:
    return live.request.objective.tpot_s or inf


def _due_s(promise: Objective, arrival_s: float) -> float:
    targets = Targets.of(promise)
    return arrival_s + min(targets.ttft_s, targets.deadline_s)
