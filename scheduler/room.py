"""Slots and blocks for requests that want to start: do they fit to their expected end, and who
gives way to a more urgent one? Blocks, tokens, seconds.
"""

from collections.abc import Iterable, Sequence
from math import ceil

from hfx.cost import CostModel

from .fill import Fill
from .lengths import Lengths
from .policy import Blocks, Live, Snapshot
from .track import Track

MOST_EVICTED = 2  # times that a request gives way to more urgent ones
MARGIN = 0.02  # of the pool: for outputs that become longer than expected
TWICE = 2.0  # times what it costs to redo a victim: its slack must bear that


class Room:
    """Who may start in one step, `slots` at most, beside `running`, of whom `prompts` are not
    computed yet."""

    def __init__(
        self,
        snapshot: Snapshot,
        fill: Fill,
        running: Sequence[Live],
        prompts: Sequence[Track],
        lengths: Lengths,
        slots: int,
    ) -> None:
        self._blocks = snapshot.blocks
        self._fill = fill
        self._running = running
        self._prompts = [track.live for track in prompts]
        self._lengths = lengths
        self.slots = slots
        self._ends: list[tuple[float, int, int]] | None = None

    def holds(self, track: Track) -> bool:
        """Whether there are blocks for a request that will grow to its expected length, as all
        others will."""
        blocks, live = self._blocks, track.live
        if not self._running and not self._fill.started:
            return True
        free = self._fill.free - self._owed() - blocks.to_hold(live.known_tokens)
        count = len(self._running) + len(self._fill.started) + 1
        if free >= count * (blocks.to_hold(ceil(self._lengths.most)) + 1):
            return True  # even if all of them grew by as much as anybody may
        left = self._lengths.remaining(live.request, live.output_tokens)
        ends = [*self._expected_ends(), (left, live.held_blocks, live.known_tokens)]
        return peak_blocks(ends, blocks) <= blocks.total * (1 - MARGIN)

    def start(self, track: Track, take: int) -> bool:
        """Start a request, if there is a slot and enough blocks."""
        if self.slots < 1 or not self._fill.start(track.live, take, self._owed()):
            return False
        self.slots -= 1
        if self._ends is not None:
            live = track.live
            left = self._lengths.remaining(live.request, live.output_tokens)
            self._ends.append((left, live.held_blocks, live.known_tokens))
        return True

    def evict(self, victim: Track) -> None:
        """Preempt a running request for a more urgent one."""
        victim.evicted += 1
        self._fill.preempt(victim.live, "a more urgent request")
        self.slots += 1
        self._ends = None

    def _owed(self) -> int:
        """Blocks that prompts still need for the tokens that they know already."""
        return self._fill.owed(self._prompts) + self._fill.owed(self._fill.started)

    def _expected_ends(self) -> list[tuple[float, int, int]]:
        if self._ends is None:
            gone, lengths = self._fill.preempted, self._lengths
            lives = [live for live in self._running if live.request.id not in gone]
            self._ends = [
                (
                    lengths.remaining(live.request, live.output_tokens),
                    live.shared_blocks,
                    live.known_tokens,
                )
                for live in (*lives, *self._fill.started)
            ]
        return self._ends


def peak_blocks(ends: Iterable[tuple[float, int, int]], blocks: Blocks) -> int:
    """The most blocks that requests hold at any time until all have ended, each as expected.

    They are given as (tokens to come, blocks shared with others, tokens now). All grow by a token a
    step, so the peak lies at an end: there, those that are left hold what they have and as much
    more as has passed (the "past-future" test, Gong et al., ASPLOS 2025).
    """
    size, peak, held = blocks.block_tokens, 0.0, 0.0
    longest_first = sorted(ends, reverse=True)
    for count, (left, shared, known) in enumerate(longest_first, start=1):
        held += known / size - shared
        peak = max(peak, held + count * (left / size + 0.5))
    return ceil(peak)


def victim_for(
    track: Track,
    spare: Iterable[Track],
    promised: Iterable[tuple[float, Track]],
    slack_s: float,
    cost: CostModel,
) -> Track | None:
    """Who should give its place to a prompt of that much slack.

    A request whose promise is lost, or that has none, gives way to any whose promise holds: the
    cheapest to compute again. One with a promise, given with its slack, does so only if it stays
    less urgent after it has waited and been computed again: the one with most slack.
    """
    idle = [t for t in spare if t.evicted < MOST_EVICTED]
    if idle:
        return min(idle, key=lambda t: (t.live.cached_tokens, t.id))
    best: tuple[float, str, Track] | None = None
    for other_s, other in promised:
        if other.evicted >= MOST_EVICTED:
            continue
        redo_s = cost.prompt_s(other.live.cached_tokens, 0)
        left_s = other_s - TWICE * (redo_s + track.work_s)
        if left_s > max(slack_s, 0.0) and (best is None or (left_s, other.id) > best[:2]):
            best = (left_s, other.id, other)
    return best[2] if best else None
