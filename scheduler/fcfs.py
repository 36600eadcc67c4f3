"""First come, first served, under a fixed budget of tokens per step: the baseline that stays.

Running requests go first, decodes and chunks alike; then waiting ones start in arrival order. A
long prompt is cut into chunks (Sarathi-Serve's chunked prefill, arXiv 2403.02310); when blocks run
out, the request that arrived last gives its own back and is recomputed later.
"""

from dataclasses import dataclass

from hfx.request import Plan, Preemption

from .policy import Live, Snapshot


@dataclass(frozen=True, slots=True, kw_only=True)
class FirstComeFirstServed:
    """A step policy with at most `max_step_tokens` tokens and `max_running` requests in a step.

    Raises:
        ValueError: a limit is below 1.
    """

    max_step_tokens: int = 2048
    max_running: int = 256

    def __post_init__(self) -> None:
        for name in ("max_step_tokens", "max_running"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}: it must be at least 1")

    def plan(self, snapshot: Snapshot) -> Plan:
        """See `hfx.scheduler.StepPolicy.plan`."""
        step = _Step(snapshot, self.max_step_tokens)
        running = list(snapshot.running)
        decodes_first = sorted(running, key=lambda live: live.wanted_tokens > 1)
        for live in decodes_first:
            step.advance(live, victims=running)
        if not step.preempted:
            room = self.max_running - len(running)
            for live in snapshot.waiting[: max(0, room)]:
                if not step.start(live):
                    break  # who came first starts first: nobody overtakes
        return Plan(tokens=step.tokens, preempt=tuple(step.preempted.values()))


class _Step:
    """A plan while it is drawn up: what is left of the token budget and of the blocks."""

    def __init__(self, snapshot: Snapshot, budget_tokens: int) -> None:
        self.blocks = snapshot.blocks
        self.free = snapshot.blocks.free
        self.budget_tokens = budget_tokens
        self.tokens: dict[str, int] = {}
        self.preempted: dict[str, Preemption] = {}

    def advance(self, live: Live, victims: list[Live]) -> None:
        """Give a running request its next tokens, preempting later arrivals for their blocks."""
        if live.request.id in self.preempted or self.budget_tokens < 1:
            return
        take = min(live.wanted_tokens, self.budget_tokens)
        need = self.blocks.to_hold(live.cached_tokens + take) - live.held_blocks
        while need > self.free:
            victim = self._last_arrival(victims)
            self._preempt(victim)
            if victim is live:
                return
        self._grant(live, take, need)

    def start(self, live: Live) -> bool:
        """Start a waiting request if budget and blocks allow; False where they don't."""
        take = min(live.wanted_tokens, self.budget_tokens)
        if take < 1:
            return False
        need = self.blocks.to_hold(live.cached_tokens + take) - live.held_blocks
        need += live.idle_hit_blocks
        if need > self.free:
            return False
        self._grant(live, take, need)
        return True

    def _grant(self, live: Live, take: int, need: int) -> None:
        self.tokens[live.request.id] = take
        self.budget_tokens -= take
        self.free -= need

    def _last_arrival(self, victims: list[Live]) -> Live:
        return next(v for v in reversed(victims) if v.request.id not in self.preempted)

    def _preempt(self, victim: Live) -> None:
        """Take a victim's blocks back, and its share of this step if it had one already."""
        take = self.tokens.pop(victim.request.id, 0)
        self.budget_tokens += take
        grown = self.blocks.to_hold(victim.cached_tokens + take) - victim.held_blocks
        self.free += victim.held_blocks - victim.shared_blocks + (grown if take else 0)
        self.preempted[victim.request.id] = Preemption(victim.request.id, "out of blocks")
