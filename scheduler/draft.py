"""One step of the multi-SLO policy while it is drawn up: decodes first, then prompts by cost.

Seconds, tokens. What a step decides, in this order: which promises can be kept, how long the step
should be, which decodes sit it out, which prompts fill it, and who gives way.
"""

from __future__ import annotations

from bisect import insort
from collections.abc import Sequence
from itertools import islice
from math import inf
from typing import TYPE_CHECKING

from hfx.request import Mix

from .chunks import Chunks
from .decodes import NOTHING, SPEND, Timing, scan, sit_out
from .fill import Fill
from .policy import Live, Snapshot
from .queue import by_due, by_order
from .select import Selection, Supply, select
from .track import Track

if TYPE_CHECKING:
    from .step import SlackPolicy

LOOKED_AT = 48  # waiting prompts that a step considers, in order of due time
LEAST_SHARE = 0.05  # of the time that prompts get, whatever decodes need
MOST_SHARE = 0.9  # of the time that decodes leave to prompts at most
SUSTAINED = 0.97  # of TPOT: as long may steps be on average


class Draft:
    """A plan in the making; `fill` holds what is granted so far."""

    def __init__(self, policy: SlackPolicy, snapshot: Snapshot, running: Sequence[Live]) -> None:
        self.policy = policy
        self.cost = policy.cost
        self.snapshot = snapshot
        self.now_s = snapshot.now_s
        self.lives = running
        self.fill = Fill(snapshot, self._ranked)
        self.mix = NOTHING

    def draw(self) -> Fill:
        """Draw the step up."""
        policy, snapshot = self.policy, self.snapshot
        self.timing = Timing(policy.lengths, policy.pace_s, policy.least_s)
        found = self.found = scan(
            self.lives, policy.tracks, self.now_s, snapshot.blocks.block_tokens, self.timing
        )
        base = self.cost.step_s(found.mix)
        policy.least_s = base.mean_s
        self.base_s = base.upper_s
        for track in found.prompts:
            live = track.live
            track.work_s = self.cost.prompt_s(live.wanted_tokens, live.cached_tokens)
        supply = self._supply()
        chosen = self._select(supply)
        self._decode(self._decode_budget_s(chosen, supply))
        spare = self._spare()
        if chosen.kept or chosen.put_off or spare:
            Chunks(self, chosen, spare).fill_up()
        else:
            policy.owed_s = 0.0
            if not self.fill.tokens:
                self.one_decodes()
        return self.fill

    # How much there is, and for whom

    def _supply(self) -> Supply:
        """What decodes leave of the time: at the pace of the tightest, and their slack at once."""
        found = self.found
        pace_s = found.tightest_s * SUSTAINED if found.tightest_s < inf else found.cap_s
        if pace_s == inf:
            return Supply(self.now_s, MOST_SHARE, 0.0)
        floor_s = self.policy.least_s or self.policy.fixed_s  # errors of price level out
        share = min(MOST_SHARE, max(LEAST_SHARE, 1 - floor_s / pace_s))
        slack_s = SPEND * max(0.0, found.slack_s) if found.slack_s < inf else 0.0
        return Supply(self.now_s, share, slack_s)

    def _select(self, supply: Supply) -> Selection:
        """Relegate what is lost for certain, then choose among the rest."""
        queue, now_s = self.policy.queue, self.now_s
        done_s = now_s + self.policy.fixed_s
        fastest = max(supply.share, MOST_SHARE) if self.found.tracks else 1.0
        tracks: list[Track] = []
        late: list[Track] = []
        for track in islice(queue.promised, LOOKED_AT):
            if done_s + track.work_s / fastest > track.latest_s:
                late.append(track)
            else:
                tracks.append(track)
        for track in late:
            if self._is_lost(track, done_s, fastest):
                if track.may_relegate:
                    queue.relegate(track)
                    continue
                queue.postpone(track, now_s)
            insort(tracks, track, key=by_due)
        for track in self.found.prompts:
            if track.is_spare:
                continue
            if now_s > track.latest_s and not track.live.output_tokens:
                if track.may_relegate:
                    track.relegate()
                    continue
                track.postpone(now_s)
            insort(tracks, track, key=by_due)
        return select(tracks, supply)

    def _is_lost(self, track: Track, done_s: float, fastest: float) -> bool:
        """Whether a waiting prompt can't be in time any more, whatever the prefix cache has now."""
        live = track.live
        if live.output_tokens:  # its first token was in time, or is lost already
            return False
        self.snapshot.refresh(live)
        track.work_s = self.cost.prompt_s(live.wanted_tokens, live.cached_tokens)
        return done_s + track.work_s / fastest > track.latest_s

    def _spare(self) -> Sequence[Track]:
        """Prompts without a promise, or with a lost one, in order of arrival."""
        waiting = self.policy.queue.spare[:LOOKED_AT]
        running = [track for track in self.found.prompts if track.is_spare]
        return sorted([*running, *waiting], key=by_order) if running else waiting

    # Decodes

    def _decode_budget_s(self, chosen: Selection, supply: Supply) -> float:
        """What decodes may take of the step: less where prompts need more than is left."""
        cap_s = self.found.cap_s
        if cap_s < inf and chosen.pressure > supply.share:
            return cap_s * (1 - min(chosen.pressure, MOST_SHARE))
        return cap_s

    def _decode(self, budget_s: float) -> None:
        """Grant decodes their token, but for those that can wait while others can't."""
        policy, found, fill = self.policy, self.found, self.fill
        chosen = found.tracks
        if self.base_s > budget_s:
            chosen = sit_out(found, budget_s, self.cost, policy.fixed_s, self.timing, self.now_s)
            policy.sitting = [track for track in found.tracks if track.skipped]
        elif policy.sitting:
            for track in policy.sitting:
                track.skipped = 0
            policy.sitting = []
        self.mix = found.mix
        if found.new_blocks <= fill.free:
            fill.decode([track.id for track in chosen], found.new_blocks)
            return
        for track in sorted(chosen, key=lambda track: self._urgency(track)):
            if track.id not in fill.preempted:
                fill.advance(track.live, 1)
        self.mix = self.granted()

    def one_decodes(self) -> bool:
        """Grant a token to the first decode that can have one; whether there is such."""
        gone, fill = self.fill.preempted, self.fill
        return any(t.id not in gone and fill.advance(t.live, 1) for t in self.found.tracks)

    def granted(self) -> Mix:
        """The mix of what is granted, after somebody lost what was granted to them."""
        tokens = self.fill.tokens
        lives = [*self.lives, *self.fill.started]
        return Mix.of(
            (tokens[live.request.id], live.cached_tokens)
            for live in lives
            if live.request.id in tokens
        )

    # Who gives way

    def slack_s(self, track: Track) -> float:
        """How long a request can do nothing at all and still be in time."""
        if not track.is_promised:
            return inf
        if track.live.is_decoding:
            return track.token_due_s(self.timing.lengths, self.timing.pace_s) - self.now_s
        return track.due_s - track.work_s - self.now_s

    def _urgency(self, track: Track) -> tuple[bool, float, tuple[int, float, str]]:
        """Those first that give way last: promises, by their slack; then the rest, by arrival."""
        if not track.is_promised:
            return True, 0.0, track.order
        return False, self.slack_s(track), track.order

    def _ranked(self) -> list[Live]:
        tracks = map(self.policy.tracks.__getitem__, self.lives)
        return [track.live for track in sorted(tracks, key=self._urgency)]
