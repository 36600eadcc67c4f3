"""A step while it is drawn up: who gets how many tokens, and who gives way where blocks run out.

Sizes are tokens and blocks. Every policy draws its plans up here, so none can exceed the pool.
"""

from collections.abc import Callable, Sequence

from hfx.request import Plan, Preemption

from .policy import Live, Snapshot


class Fill:
    """The tokens granted so far, and the blocks that are left.

    `ranked` gives the running requests, those first that give way last; it is asked for only if
    blocks run out.
    """

    def __init__(self, snapshot: Snapshot, ranked: Callable[[], list[Live]]) -> None:
        self.tokens: dict[str, int] = {}
        self.preempted: dict[str, Preemption] = {}
        self.free = snapshot.blocks.free
        self.granted_tokens = 0
        self.started: list[Live] = []
        self._leaned_on = 0  # blocks of the started ones' hits that others held
        self._blocks = snapshot.blocks
        self._refresh = snapshot.refresh
        self._ranked = ranked
        self._survivors: list[Live] | None = None

    def advance(self, live: Live, take: int) -> int:
        """Grant a running request up to `take` tokens, for which those behind it give way.

        The last of all makes do with the blocks that are free. Returns what was granted.
        """
        need = self._blocks.to_hold(live.cached_tokens + take) - live.held_blocks
        if need > self.free:
            survivors = self.survivors
            while need > self.free and survivors[-1] is not live:
                self.preempt(survivors[-1], "out of blocks")
        if need > self.free:
            need = self.free
            take = (live.held_blocks + need) * self._blocks.block_tokens - live.cached_tokens
        if take > 0:
            self._grant(live, take, need)
        return max(take, 0)

    def advance_each(self, decodes: Sequence[Live], budget_tokens: int) -> None:
        """Grant a token to each of those that want one, in order, while the step's budget lasts."""
        size, blocks = self._blocks.block_tokens, 0
        for live in decodes:
            if live.known_tokens > live.held_blocks * size:
                blocks += self._blocks.to_hold(live.known_tokens) - live.held_blocks
        if blocks <= self.free and self.granted_tokens + len(decodes) <= budget_tokens:
            self.decode([live.request.id for live in decodes], blocks)
            return
        for live in decodes:
            if self.granted_tokens < budget_tokens and live.request.id not in self.preempted:
                self.advance(live, 1)

    def decode(self, ids: Sequence[str], new_blocks: int) -> None:
        """Grant a token to each of many decodes, which need that many free blocks between them."""
        assert new_blocks <= self.free, "those who need blocks are to be advanced one by one"
        granted = dict.fromkeys(ids, 1)
        self.tokens = {**self.tokens, **granted} if self.tokens else granted
        self.granted_tokens += len(ids)
        self.free -= new_blocks

    def start(self, live: Live, take: int, spoken_for: int) -> bool:
        """Start a waiting request if all that it knows fits beside `spoken_for` blocks.

        So no prompt is begun only to be preempted half way. The request must be fresh, see
        `Snapshot.refresh`.
        """
        occupied = live.held_blocks - live.idle_hit_blocks  # of its hit, by others
        if self.preempted:
            occupied = 0  # who holds them may be among those who gave way
        whole = self._blocks.to_hold(live.known_tokens) - occupied
        if whole + spoken_for > self.free:
            return False
        self.started.append(live)
        self._leaned_on += occupied
        self._grant(live, take, self._blocks.to_hold(live.cached_tokens + take) - occupied)
        return True

    def owed(self, lives: Sequence[Live]) -> int:
        """Blocks for known tokens of running requests that this step doesn't compute."""
        blocks, granted, gone, to_hold = 0, self.tokens, self.preempted, self._blocks.to_hold
        for live in lives:
            take = granted.get(live.request.id, 0)
            if live.known_tokens - live.cached_tokens > take and live.request.id not in gone:
                holds = max(live.held_blocks, to_hold(live.cached_tokens + take))
                blocks += to_hold(live.known_tokens) - holds
        return blocks

    @property
    def survivors(self) -> list[Live]:
        """Running requests that keep their blocks, those first that give way last."""
        if self._survivors is None:
            gone = self.preempted
            self._survivors = [live for live in self._ranked() if live.request.id not in gone]
        return self._survivors

    def preempt(self, victim: Live, reason: str) -> None:
        """Take a victim's blocks back, and its share of this step.

        Blocks that victims share with each other, or with those who have just started, may be
        counted as held still. Survivors can't hold more than the sum of theirs, though: the last of
        them finds all of the rest free.
        """
        if self._survivors is not None:
            self._survivors.remove(victim)
        self._refresh(victim)
        self.free += self._holds(victim) - victim.shared_blocks - self._leaned_on
        self.preempted[victim.request.id] = Preemption(victim.request.id, reason)
        self.granted_tokens -= self.tokens.pop(victim.request.id, 0)
        if victim.shared_blocks or self._leaned_on:
            self._leaned_on = 0
            held = sum(self._holds(live) for live in (*self.survivors, *self.started))
            self.free = max(self.free, self._blocks.total - held)

    def plan(self) -> Plan:
        """What has been drawn up."""
        return Plan(tokens=self.tokens, preempt=tuple(self.preempted.values()))

    def _grant(self, live: Live, take: int, need: int) -> None:
        self.tokens[live.request.id] = take
        self.granted_tokens += take
        self.free -= need

    def _holds(self, live: Live) -> int:
        """Blocks that a request holds after this step, as far as it is planned."""
        take = self.tokens.get(live.request.id, 0)
        return max(live.held_blocks, self._blocks.to_hold(live.cached_tokens + take))
