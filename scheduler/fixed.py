"""Orders under a fixed budget of tokens per step: priority, earliest due first, shortest prompt
first. They know no prices and keep no promise on purpose; they are what ours is compared with.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from math import inf

from hfx.request import FinishReason, Plan, Request

from .fcfs import FirstComeFirstServed, filled
from .fill import Fill
from .policy import Live, Snapshot

Rank = Callable[[Live], tuple[float, ...]]


def due_s(live: Live) -> float:
    """When a request's first token is due; by its deadline if that is all it has, else never."""
    promise = live.request.objective
    if promise.ttft_s is not None:
        return live.arrival_s + promise.ttft_s
    return inf if promise.deadline_s is None else live.arrival_s + promise.deadline_s


@dataclass(frozen=True, slots=True, kw_only=True)
class Priority(FirstComeFirstServed):
    """vLLM's `--scheduling-policy priority`: lower `Request.priority` first, then arrival.

    As in vLLM v1's scheduler (vllm/v1/core/sched/scheduler.py), running requests go before waiting
    ones whatever their priority, and the last in order is preempted only when blocks run out.
    """

    def plan(self, snapshot: Snapshot) -> Plan:
        """See `hfx.scheduler.StepPolicy.plan`."""

        def rank(live: Live) -> tuple[float, ...]:
            return live.request.priority, live.arrival_s

        return filled(
            snapshot,
            sorted(snapshot.running, key=rank),
            sorted(snapshot.waiting, key=rank),
            self.max_step_tokens,
            self.max_running,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class EarliestDueFirst(FirstComeFirstServed):
    """Prompts by arrival + TTFT, in chunks beside all decodes: the EDF of the QoServe paper.

    (Goel et al., arXiv 2503.22562, compares with Sarathi-Serve under this order.) A more urgent
    prompt goes ahead of one that has begun.
    """

    def plan(self, snapshot: Snapshot) -> Plan:
        """See `hfx.scheduler.StepPolicy.plan`."""
        return ordered(snapshot, lambda live: (due_s(live), live.arrival_s), self)

    def ended(self, request: Request, output_tokens: int, reason: FinishReason) -> None:
        """Nothing is learned from a request's end."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ShortestPromptFirst(FirstComeFirstServed):
    """Prompts by what is left of them, in chunks beside all decodes: the SRPF of the QoServe paper.

    (Goel et al., arXiv 2503.22562.) It has no due times, and long prompts may starve under load.
    """

    def plan(self, snapshot: Snapshot) -> Plan:
        """See `hfx.scheduler.StepPolicy.plan`."""
        return ordered(snapshot, lambda live: (live.wanted_tokens, live.arrival_s), self)


def ordered(snapshot: Snapshot, rank: Rank, limits: FirstComeFirstServed) -> Plan:
    """Decodes first, then prompts in order of rank, running or not, under the limits' budget."""
    running = sorted(snapshot.running, key=rank)
    fill = Fill(snapshot, lambda: running)
    decodes = [live for live in running if live.is_decoding]
    prompts = [live for live in running if not live.is_decoding]
    prompts = sorted([*prompts, *snapshot.waiting], key=rank)
    fill.advance_each(decodes, limits.max_step_tokens)
    serve(fill, snapshot, prompts, limits.max_step_tokens, limits.max_running)
    return fill.plan()


def serve(
    fill: Fill,
    snapshot: Snapshot,
    prompts: Iterable[Live],
    budget_tokens: int,
    max_running: int,
) -> None:
    """Chunks of prompts in the order given, up to a step's budget of tokens, decodes included.

    Nobody who waits overtakes another who waits, and nobody starts in a step that preempts.
    """
    running = set(snapshot.running)
    room = max_running - len(running)
    open_ = True
    for live in prompts:
        left = budget_tokens - fill.granted_tokens
        if left < 1:
            return
        if live in running:
            if live.request.id not in fill.preempted:
                fill.advance(live, min(live.wanted_tokens, left))
            continue
        open_ = open_ and room > 0 and not fill.preempted
        if open_:
            snapshot.refresh(live)
            owed = fill.owed(snapshot.running)
            open_ = fill.start(live, min(live.wanted_tokens, left), owed)
            room -= open_
