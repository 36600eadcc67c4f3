"""The least accelerator time that a fleet whose size can change needs: by dynamic programming.

Time goes in slots. Work is counted in seconds of a replica, at the least that `limits_prices` says
it can take: it can be done from a request's arrival on, and must be by its due time (a token by the
cumulative rule; without a promise, by the end). The fleet is the same throughout a slot, the whole
future is known, and a replica costs from its order on, so `start_s` before it serves.

What it bounds: the accelerator time of every scaler with any policies that keeps every promise, as
far as sizes change between slots only, the last of which counts whole. Work is fluid: it may be
split among replicas, and tokens computed in any order. Replicas that drain cost nothing, memory is
unbounded, and tight streams don't shorten steps. So no scaler quite reaches it: what one needs
above it is an upper bound of what is left to gain. Seconds.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, product
from math import ceil, floor, inf

from hfx.cost import StepCost

from .job import Job
from .limits import STEP_TOKENS
from .limits_prices import MOST_DECODES, Line, decode_lines, mixed_lines

SLOT_S = 10.0
ROUNDING = 1e-9  # of sums of work
USUAL_LOAD = 0.7  # of a replica's time: what fixed fleets are sized for


@dataclass(frozen=True, slots=True)
class Work:
    """Seconds of a replica, for each slot: what can be done from it on, and what must be done by
    its end. Both sum up to the same."""

    slot_s: float
    comes_s: tuple[float, ...]
    due_s: tuple[float, ...]

    def needed(self, load: float = USUAL_LOAD) -> tuple[float, ...]:
        """The replicas that each slot's work takes if they compute for that share of the time."""
        return tuple(s / self.slot_s / load for s in self.comes_s)


@dataclass(frozen=True, slots=True)
class ScalingLimit:
    """The optimum, and the replicas in each slot that reach it; infinite if nothing does."""

    accelerator_s: float
    replicas: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class _Prices:
    """The least that each of these takes."""

    prompt_token_s: float
    pair_s: float
    output_token_s: float
    context_token_s: float

    def of(self, job: Job) -> tuple[float, float]:
        """A job's prompt, and one of its further tokens."""
        prompt, steps = job.request.prompt_tokens, job.output_tokens - 1
        context = prompt + (steps + 1) / 2
        prompt_s = prompt * self.prompt_token_s + prompt * prompt / 2 * self.pair_s
        return prompt_s, self.output_token_s + context * self.context_token_s

    def total_s(self, jobs: Iterable[Job]) -> float:
        """All jobs together."""
        return sum(p + (job.output_tokens - 1) * t for job in jobs for p, t in [self.of(job)])


def work_of(
    jobs: Sequence[Job],
    profile: StepCost,
    *,
    slot_s: float = SLOT_S,
    step_tokens: int = STEP_TOKENS,
) -> Work:
    """The work of traffic, slot by slot, until the last of it is due.

    Raises:
        ValueError: there are no jobs, or slots have no length.
    """
    if not jobs or not slot_s > 0:
        raise ValueError(f"{len(jobs)} jobs in slots of {slot_s} s: there must be some of each")
    prices = _dearest(jobs, profile, step_tokens)
    comes: dict[int, float] = {}
    due: dict[float, float] = {}
    for job in jobs:
        prompt_s, token_s = prices.of(job)
        slot = int(job.request.arrival_s / slot_s)
        work_s = prompt_s + (job.output_tokens - 1) * token_s
        comes[slot] = comes.get(slot, 0.0) + work_s
        for slot_due, amount_s in _due(job, prompt_s, token_s, slot_s):
            due[slot_due] = due.get(slot_due, 0.0) + amount_s
    endless_s = due.pop(inf, 0.0)
    slots = int(max(*comes, *due, 0)) + 1
    due[slots - 1] = due.get(slots - 1, 0.0) + endless_s
    rows = [tuple(row.get(n, 0.0) for n in range(slots)) for row in (comes, due)]
    return Work(slot_s, rows[0], rows[1])


def _dearest(jobs: Sequence[Job], profile: StepCost, step_tokens: int) -> _Prices:
    """Of all lines that bound steps from below, those by which this traffic takes longest."""
    pairs = product(mixed_lines(profile, step_tokens), decode_lines(profile))
    return max(
        (_prices(mixed, decode, step_tokens) for mixed, decode in pairs),
        key=lambda prices: prices.total_s(jobs),
    )


def _prices(mixed: Line, decode: Line, step_tokens: int) -> _Prices:
    """Steps as full as they can be; an output token in whichever kind of step it takes less."""
    return _Prices(
        mixed.prompt_token_s + mixed.step_s / step_tokens,
        mixed.pair_s,
        min(mixed.decode_s, decode.decode_s + decode.step_s / MOST_DECODES),
        min(mixed.context_token_s, decode.context_token_s),
    )


def _due(job: Job, prompt_s: float, token_s: float, slot_s: float) -> Iterator[tuple[float, float]]:
    """Slots in which something is due, and how much; infinite where nothing says so."""
    promise, arrival_s = job.request.objective, job.request.arrival_s
    end_s = arrival_s + (promise.deadline_s or inf)
    first_s = min(end_s, arrival_s + (promise.ttft_s or inf))
    yield _slot(first_s, slot_s), prompt_s
    steps, tpot_s = job.output_tokens - 1, promise.tpot_s
    if tpot_s is None or first_s == inf:
        yield _slot(end_s, slot_s), steps * token_s
        return
    token = 1
    while token <= steps:
        slot = _slot(min(end_s, first_s + token * tpot_s), slot_s)
        last = floor(((slot + 1) * slot_s - first_s) / tpot_s)
        last = steps if slot == _slot(end_s, slot_s) else min(steps, max(token, last))
        yield slot, (last - token + 1) * token_s
        token = last + 1


def _slot(at_s: float, slot_s: float) -> float:
    return inf if at_s == inf else floor(at_s / slot_s)


Plan = tuple[int, "Plan | None"]  # the replicas of the last slot, and the slots before it
Option = tuple[float, float, "Plan | None"]  # cost, work that is done, the slots so far


def least_accelerator_s(
    work: Work,
    *,
    start_s: float,
    least: int = 0,
    most: int | None = None,
    present: int = 0,
) -> ScalingLimit:
    """The least accelerator time in which everything is done when it is due.

    Between `least` and `most` replicas serve; `present` are there at the beginning and cost no
    start. Work that is there is never left undone while somebody has time, which is no loss.

    Raises:
        ValueError: the limits contradict each other.
    """
    come_s, due_s = list(accumulate(work.comes_s)), list(accumulate(work.due_s))
    before = [0.0, *due_s[:-1]]
    enough = max(ceil((c - d) / work.slot_s) for c, d in zip(come_s, before, strict=True))
    most = max(least, enough) if most is None else most
    if not 0 <= least <= most:
        raise ValueError(f"at least {least} and at most {most} replicas: give 0 <= least <= most")
    options: dict[int, list[Option]] = {present: [(0.0, 0.0, None)]}
    for comes, due in zip(come_s, due_s, strict=True):
        options = {
            count: _best(options, count, comes, due, work.slot_s, start_s)
            for count in range(least, most + 1)
        }
    ends = [option for row in options.values() for option in row]
    if not ends:
        return ScalingLimit(inf, ())
    cost, _, plan = min(ends, key=lambda option: option[0])
    return ScalingLimit(cost, _unrolled(plan))


def _best(
    options: dict[int, list[Option]],
    count: int,
    comes_s: float,
    due_s: float,
    slot_s: float,
    start_s: float,
) -> list[Option]:
    """The ways to serve with so many in a slot that no other beats in both cost and work done."""
    found: list[Option] = []
    for before, row in options.items():
        extra = count * slot_s + max(0, count - before) * start_s
        for cost, done, plan in row:
            now_done = min(comes_s, done + count * slot_s)
            if now_done >= due_s - ROUNDING * max(1.0, due_s):
                found.append((cost + extra, now_done, (count, plan)))
    found.sort(key=lambda option: (option[0], -option[1]))
    kept: list[Option] = []
    for option in found:
        if not kept or option[1] > kept[-1][1]:
            kept.append(option)
    return kept


def _unrolled(plan: Plan | None) -> tuple[int, ...]:
    counts: list[int] = []
    while plan is not None:
        count, plan = plan
        counts.append(count)
    return tuple(reversed(counts))
