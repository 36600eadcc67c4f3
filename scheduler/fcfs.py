"""First come, first served, under a fixed budget of tokens per step: the baseline that stays.

Running requests go first: decodes, which cost one token each, then prompt chunks. Waiting ones
start in arrival order. A long prompt is cut into chunks (Sarathi-Serve's chunked prefill, arXiv
2403.02310). When blocks run out, a request takes those of whoever arrived last, who is recomputed
later; the last one itself makes do with what is free, or pauses.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from hfx.request import FinishReason, Plan, Preemption, Request

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
        step = _Step(snapshot, self.max_step_tokens)
        for live in sorted(snapshot.running, key=lambda live: live.wanted_tokens > 1):
            step.advance(live)
        if not step.preempted:
            step.start_waiting(snapshot.waiting, self.max_running - len(snapshot.running))
        return Plan(tokens=step.tokens, preempt=tuple(step.preempted.values()))

    def ended(self, request: Request, output_tokens: int, reason: FinishReason) -> None:
        """Nothing is learned from a request's end."""


class _Step:
    """A plan while it is drawn up: what is left of the token budget and of the blocks."""

    def __init__(self, snapshot: Snapshot, budget_tokens: int) -> None:
        self.blocks = snapshot.blocks
        self.free = snapshot.blocks.free
        self.refresh = snapshot.refresh
        self.budget_tokens = budget_tokens
        self.tokens: dict[str, int] = {}
        self.preempted: dict[str, Preemption] = {}
        self._survivors = list(snapshot.running)

    def advance(self, live: Live) -> None:
        """Give a running request its next tokens, preempting later arrivals for their blocks."""
        if live.request.id in self.preempted or self.budget_tokens < 1:
            return
        take = min(live.wanted_tokens, self.budget_tokens)
        need = self.blocks.to_hold(live.cached_tokens + take) - live.held_blocks
        while need > self.free and self._survivors[-1] is not live:
            self._preempt(self._survivors.pop())
        if need > self.free:
            need = self.free
            take = (live.held_blocks + need) * self.blocks.block_tokens - live.cached_tokens
        if take > 0:
            self._grant(live, take, need)

    def start_waiting(self, waiting: Sequence[Live], room: int) -> None:
        """Start waiting requests in order, while their whole known tokens fit.

        Nobody overtakes. What running and started requests still need for their own known tokens
        is spoken for, so that no prompt is begun only to be preempted half way.
        """
        owed = sum(self._owed(live) for live in self._survivors)
        for live in waiting[: max(0, room)]:
            self.refresh(live)
            take = min(live.wanted_tokens, self.budget_tokens)
            occupied = live.held_blocks - live.idle_hit_blocks  # of its hit, by others
            whole = self.blocks.to_hold(live.known_tokens) - occupied
            if take < 1 or whole + owed > self.free:
                break
            need = self.blocks.to_hold(live.cached_tokens + take) - occupied
            self._grant(live, take, need)

    def _owed(self, live: Live) -> int:
        """Blocks for known tokens of a running request that this step doesn't compute."""
        cached = live.cached_tokens + self.tokens.get(live.request.id, 0)
        held = max(live.held_blocks, self.blocks.to_hold(cached))
        return self.blocks.to_hold(live.known_tokens) - held

    def _grant(self, live: Live, take: int, need: int) -> None:
        self.tokens[live.request.id] = take
        self.budget_tokens -= take
        self.free -= need

    def _preempt(self, victim: Live) -> None:
        """Take a victim's blocks back, and its share of this step if it had one already.

        Blocks that victims share with each other may be counted as held still. Survivors can't hold
        more than the sum of theirs, though: the last of them finds all of the rest free.
        """
        self.refresh(victim)
        self.budget_tokens += self.tokens.get(victim.request.id, 0)
        self.free += self._holds(victim) - victim.shared_blocks
        self.tokens.pop(victim.request.id, None)
        self.preempted[victim.request.id] = Preemption(victim.request.id, "out of blocks")
        held = sum(self._holds(survivor) for survivor in self._survivors)
        self.free = max(self.free, self.blocks.total - held)

    def _holds(self, live: Live) -> int:
        """Blocks that a running request holds after this step, as far as it is planned."""
        take = self.tokens.get(live.request.id, 0)
        return max(live.held_blocks, self.blocks.to_hold(live.cached_tokens + take))
