"""First come, first served, under a fixed budget of tokens per step: the baseline that stays.

Running requests go first: decodes, which cost one token each, then prompt chunks. Waiting ones
start in order. A long prompt is cut into chunks (Sarathi-Serve's chunked prefill, arXiv
2403.02310). When blocks run out, a request takes those of whoever comes last, who is recomputed
later; the last one itself makes do with what is free, or pauses.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from hfx.request import FinishReason, Plan, Request

from .fill import Fill
from .policy import Live, Snapshot


@dataclass(frozen=True, slots=True, kw_only=True)
class FirstComeFirstServed:
    """A step policy with at most `max_step_tokens` tokens and `max_running` requests in a step.

    Every step advances the request that arrived first, so none starves.

    Raises:
        ValueError: a limit is below 1, or a step could not advance every running request.
    """

    max_step_tokens: int = 2048
    max_running: int = 256

    def __post_init__(self) -> None:
        if self.max_running < 1:
            raise ValueError(f"max_running is {self.max_running}: it must be at least 1")
        if self.max_step_tokens < self.max_running:
            raise ValueError(
                f"max_step_tokens is {self.max_step_tokens}: it must be at least max_running "
                f"({self.max_running}), for a token of every running request"
            )

    def plan(self, snapshot: Snapshot) -> Plan:
        """See `hfx.scheduler.StepPolicy.plan`."""
        return filled(
            snapshot, snapshot.running, snapshot.waiting, self.max_step_tokens, self.max_running
        )

    def ended(self, request: Request, output_tokens: int, reason: FinishReason) -> None:
        """Nothing is learned from a request's end."""


def filled(
    snapshot: Snapshot,
    running: Iterable[Live],
    waiting: Iterable[Live],
    max_step_tokens: int,
    max_running: int,
) -> Plan:
    """The plan of a fixed budget of tokens: `running` and `waiting` in the order they are served.

    Nobody who waits overtakes, and nobody starts in a step that preempts.
    """
    ranked = list(running)
    fill = Fill(snapshot, lambda: ranked)
    fill.advance_each(
        [live for live in ranked if live.known_tokens - live.cached_tokens == 1], max_step_tokens
    )
    for live in [live for live in ranked if live.known_tokens - live.cached_tokens > 1]:
        left = max_step_tokens - fill.granted_tokens
        if left > 0 and live.request.id not in fill.preempted:
            fill.advance(live, min(live.wanted_tokens, left))
    if not fill.preempted:
        _start(fill, snapshot, ranked, waiting, max_step_tokens, max_running)
    return fill.plan()


def _start(
    fill: Fill,
    snapshot: Snapshot,
    running: list[Live],
    waiting: Iterable[Live],
    max_step_tokens: int,
    max_running: int,
) -> None:
    owed: int | None = None
    room = max_running - len(running)
    for live in waiting:
        left = max_step_tokens - fill.granted_tokens
        if room < 1 or left < 1:
            return
        snapshot.refresh(live)
        owed = fill.owed(running) if owed is None else owed
        if not fill.start(live, min(live.wanted_tokens, left), owed):
            return
        room -= 1
