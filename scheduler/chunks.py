"""How a step is filled up with prompts: how long it should be, and whose chunks it takes.

Seconds, tokens. Chunks are cut by what they cost; who starts finds room, or others make way.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from math import inf
from typing import TYPE_CHECKING

from hfx.request import Mix

from .decodes import SPEND
from .room import Room, victim_for
from .select import LEAST_S, Selection
from .track import Track

if TYPE_CHECKING:
    from .draft import Draft

HURRY = 1.4  # times the share of the time that would just do: prompts end early by that much
BUSY = 0.1  # of the time for arriving prompts: from there on nothing is put off that can be done
CROWD = 4  # streams for each prompt that is put off: fewer would waste steps that are half empty
RESERVE = 0.05  # of the time for prompts: what spare work gets however much else presses
MOST_OWED_S = 1.0  # that spare work can save up
FILLED = 0.97  # of the time: so much may decodes promise
PRESSING = 0.75  # of the time: from there on nobody who may come is waited for
MOST_CHUNKS = 16  # prompts in a step
LONGEST_OF_TTFT = 0.3  # of the tightest TTFT: so long may one that arrives be kept waiting
LONGEST_OF_FIXED = 20.0  # times its decodes alone: longer ones amortise nothing any more
LONGEST_OF_LEAST = 1.5  # times its decodes alone: so long may a step always be
EARLY = 1.3  # times the tokens a step that would just do
GENTLE_PARTS = 4  # of a tile: how finely chunks are cut when nothing presses
GENTLE = 1.12  # times a step of decodes: what streams hardly notice
SOON_DONE = 2  # steps: prompts that need no more of them are not drawn out


class Chunks:
    """The prompts of a step whose decodes are drawn up; `mix` is all that is granted so far."""

    def __init__(self, draft: Draft, chosen: Selection, spare: Sequence[Track]) -> None:
        self.draft = draft
        self.policy = draft.policy
        self.cost = draft.cost
        self.snapshot = draft.snapshot
        self.now_s = draft.now_s
        self.base_s = draft.base_s
        self.found = draft.found
        self.fill = draft.fill
        self.chosen = chosen
        self.spare = spare
        self.promised = [*chosen.kept, *chosen.put_off]
        self.begun = set(draft.found.prompts)
        self.mix = draft.mix
        self.due_s = inf  # of the first tokens that the step yields
        self.is_open = not draft.fill.preempted  # whether anybody may start
        self._slots = draft.policy.max_running - len(draft.lives) + len(draft.fill.preempted)
        self._room: Room | None = None

    def fill_up(self) -> None:
        """Promises first, but for what spare work has a right to; see that something progresses."""
        policy, spare = self.policy, self.spare
        target_s = self._target_s(self.chosen, bool(spare))
        if spare and policy.owed_s > policy.pace_s:
            before_s = self._mix_s()
            self._serve(spare[:1], min(target_s, before_s + policy.owed_s))
            policy.owed_s -= self._mix_s() - before_s
        if not spare:
            self._serve(self.promised, target_s)
            policy.owed_s = 0.0
        else:
            before_s = self._mix_s()
            self._serve(self.promised, target_s)
            owed_s = policy.owed_s + RESERVE * (self._mix_s() - before_s)
            policy.owed_s = min(owed_s, MOST_OWED_S)
            before_s = self._mix_s()
            self._serve(spare, target_s)
            policy.owed_s = max(0.0, policy.owed_s - (self._mix_s() - before_s))
        if not self.fill.tokens:
            self._at_least([*self.promised, *spare])

    # How long the step should be

    def _target_s(self, chosen: Selection, spare: bool) -> float:
        """How long this step should be: no longer than needed, and never past the veto."""
        most_s = min(self.found.cap_s, self._longest_s(chosen.pressure))
        self.grain = self.policy.tile_tokens
        if spare or chosen.put_off or not self.found.tracks:
            return most_s
        if CROWD * len(chosen.kept) > len(self.found.tracks):
            return most_s
        if self._soon_done(chosen.kept, most_s):
            return most_s
        idle = 1 - self.policy.arriving / BUSY
        share = HURRY * chosen.pressure / idle if idle > 0 else 1.0
        if share >= 1 or self.base_s / (1 - share) >= most_s:
            return most_s
        gentle_s = max(self.base_s / (1 - share), GENTLE * self.base_s)
        self.grain = max(1, self.grain // GENTLE_PARTS)
        return min(most_s, max(gentle_s, self._paced_s(chosen.kept)))

    def _soon_done(self, kept: Sequence[Track], most_s: float) -> bool:
        """Whether a step or two of that length compute all prompts; then they may as well."""
        tokens = sum(track.live.wanted_tokens for track in kept)
        most = SOON_DONE * self.policy.max_step_tokens
        if tokens > most or most_s == inf:
            return tokens <= most
        history = min((track.live.cached_tokens for track in kept), default=0)
        return tokens <= SOON_DONE * self.cost.prefill_tokens_within(most_s, self.mix, history)

    def _longest_s(self, pressure: float) -> float:
        """The longest step that makes sense, whatever decodes allow."""
        policy, longest_s = self.policy, inf
        least_s = max(self.base_s, policy.fixed_s)
        if self.found.tracks:
            longest_s = policy.efficient_s
        if pressure < PRESSING and policy.tightest_ttft_s < inf:
            longest_s = min(longest_s, LONGEST_OF_FIXED * least_s)
            longest_s = min(longest_s, LONGEST_OF_TTFT * policy.tightest_ttft_s)
        return max(LONGEST_OF_LEAST * least_s, longest_s)

    def _paced_s(self, kept: Sequence[Track]) -> float:
        """How long steps must be whose chunks, one a step, get all prompts done in time.

        Small chunks cost more than their share of a large one, so work alone would say too little.
        """
        tokens, rate, history = 0, 0.0, 0
        for track in kept:
            live = track.live
            tokens += live.wanted_tokens
            rate = max(rate, tokens / max(track.due_s - self.now_s, LEAST_S))
            history = history or live.cached_tokens
        step_s = max(self.policy.pace_s, self.base_s)
        need = -(-int(EARLY * rate * step_s + 1) // self.grain) * self.grain
        return self.cost.step_s(self.mix + Mix.one(need + 1, history)).upper_s

    def _mix_s(self) -> float:
        return self.cost.step_s(self.mix).mean_s

    # Whose prompts

    def _serve(self, tracks: Iterable[Track], target_s: float) -> None:
        """Chunks of prompts in the order given, several if they fit, by what they cost."""
        fill = self.fill
        for track in tracks:
            if track.id in fill.tokens or track.id in fill.preempted:
                continue
            if self.mix.chunks >= MOST_CHUNKS:
                return
            if track in self.begun:
                goes_on = self._continue(track, target_s)
            elif self.is_open:
                goes_on = self._start(track, target_s)
            else:
                continue
            if not goes_on:
                return

    def _continue(self, track: Track, target_s: float) -> bool:
        """The next chunk of a running prompt; whether there was time for one."""
        take = self._take(track, target_s)
        if take < 1:
            return False
        preempted = len(self.fill.preempted)
        take = self.fill.advance(track.live, take)
        if len(self.fill.preempted) > preempted:
            self.mix = self.draft.granted()
        elif take:
            self._count(track, take, track.live.cached_tokens)
        return True

    def _start(self, track: Track, target_s: float) -> bool:
        """Start a waiting request, for whom others may have to make way; whether there was time.

        Where there is no room for it, nobody else starts either.
        """
        live = track.live
        self.snapshot.refresh(live)
        take = self._take(track, target_s)
        if take < 1:
            return False
        if not self._sustains(track):
            return True
        self.is_open = self._enter(track, take) or (
            self._make_way(track) and self._enter(track, take)
        )
        if self.is_open:
            self._count(track, take, live.cached_tokens)
            if track.is_promised and track.tpot_s < inf:
                self.found.rate += track.rate
                self.found.tightest_s = min(self.found.tightest_s, track.tpot_s)
        return True

    @property
    def room(self) -> Room:
        """What is left for those who want to start; worked out where somebody does."""
        if self._room is None:
            prompts, lengths = self.found.prompts, self.policy.lengths
            self._room = Room(
                self.snapshot, self.fill, self.draft.lives, prompts, lengths, self._slots
            )
        return self._room

    def _enter(self, track: Track, take: int) -> bool:
        return self.room.slots > 0 and self.room.holds(track) and self.room.start(track, take)

    def _count(self, track: Track, take: int, history_tokens: int) -> None:
        self.mix = self.mix + Mix.one(take, history_tokens)
        if history_tokens + take == track.live.known_tokens:
            self.policy.computed(track)
            if track.is_promised and track.due_s > self.now_s:
                self.due_s = min(self.due_s, track.due_s)

    def _take(self, track: Track, target_s: float) -> int:
        """How many of a prompt's tokens join the step."""
        live = track.live
        wanted = live.wanted_tokens
        left = self.policy.max_step_tokens - self.fill.granted_tokens
        take = min(wanted, left)
        target_s = min(target_s, self.due_s - self.now_s)
        if target_s < inf:
            fits = self.cost.prefill_tokens_within(target_s, self.mix, live.cached_tokens)
            take = min(take, fits)
        if take in (wanted, left):
            return take
        over = take % self.grain
        up = take - over + self.grain
        if 2 * over >= self.grain and up <= min(wanted, left):
            longer = self.mix + Mix.one(up, live.cached_tokens)
            slack_s = min(max(target_s, self.found.slack_s), self.due_s - self.now_s)
            most_s = min(target_s / SPEND, slack_s)
            if self.cost.step_s(longer).upper_s <= most_s:
                return up  # the whole slack, rather than to give up so much of it
        return take - over

    def _sustains(self, track: Track) -> bool:
        """Whether decodes would keep up with their promises if this one joined them."""
        found = self.found
        if not found.tracks or not track.is_promised or track.tpot_s == inf:
            return True
        fixed_s = self.policy.fixed_s
        each_s = max(0.0, self.policy.least_s - fixed_s) / len(found.tracks)
        tightest_s = min(found.tightest_s, track.tpot_s)
        return fixed_s / tightest_s + each_s * (found.rate + track.rate) <= FILLED

    def _make_way(self, track: Track) -> bool:
        """Preempt somebody for a prompt whose promise holds; whether anybody could be."""
        if not track.is_promised or track.due_s == inf:
            return False
        gone, found = self.fill.preempted, self.found
        spare = [t for t in found.spare if t.id not in gone]
        spare += [t for t in found.prompts if t.is_spare and t.id not in gone]
        promised = [t for t in found.prompts if not t.is_spare and t.id not in gone]
        if found.slackest is not None and found.slackest.id not in gone:
            promised.append(found.slackest)
        slacks = ((self.draft.slack_s(t), t) for t in promised)
        victim = victim_for(track, spare, slacks, self.draft.slack_s(track), self.cost)
        if victim is None:
            return False
        tokens = self.fill.tokens.get(victim.id)
        if tokens:
            self.mix = self.mix - Mix.one(tokens, victim.live.cached_tokens)
        self.room.evict(victim)
        return True

    def _at_least(self, tracks: list[Track]) -> None:
        """Where nothing would progress: a tile of the first that can have one."""
        if self.draft.one_decodes():
            return
        most = min(self.policy.tile_tokens, self.policy.max_step_tokens)
        for track in tracks:
            if track.id in self.fill.preempted:
                continue
            self.snapshot.refresh(track.live)
            take = min(most, track.live.wanted_tokens)
            if track in self.begun:
                if self.fill.advance(track.live, take):
                    return
            elif self.room.start(track, take):
                return
