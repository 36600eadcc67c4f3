"""The decodes of a step: how long they allow it to be, and which of them can sit it out.

A decode allows an iteration up to the slack that its tokens have gathered, and always one that is
no longer than its own pace: that leaves it no farther behind. Seconds.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from math import ceil, inf
from typing import NamedTuple

from hfx.cost import CostModel
from hfx.request import Mix

from .lengths import Lengths
from .policy import Live
from .track import RUN_RATE, Track, Tracks

SPEND = 0.9  # of the slack that one iteration may use
RECOVERS = 0.1  # of TPOT: what a late decode is believed to win back with each token, at least
MOST_SKIPPED = 8  # steps that a decode sits out in a row
LEAST_S = 1e-6  # between tokens: nothing is due at once
NOTHING = Mix()
TWO_STEPS = 2.0  # a decode may sit a step out if it would still be in time after that many


@dataclass(slots=True)
class Decodes:
    """What a step's decodes are and allow.

    `cap_s` is the longest step that all of them allow, `slack_s` their least slack, `tightest_s`
    the least TPOT among those whose promise holds, `rate` the tokens per second promised to them.
    `spare` have no promise or lost it; `slackest` is who can wait longest of the others.
    """

    tracks: list[Track] = field(default_factory=list)
    prompts: list[Track] = field(default_factory=list)
    spare: list[Track] = field(default_factory=list)
    slackest: Track | None = None
    mix: Mix = NOTHING
    new_blocks: int = 0
    cap_s: float = inf
    slack_s: float = inf
    tightest_s: float = inf
    rate: float = 0.0


def scan(
    running: Iterable[Live],
    tracks: Tracks,
    now_s: float,
    block_tokens: int,
    timing: Timing,
) -> Decodes:
    """Sort running requests into decodes and prompts.

    One flat loop: it runs for hundreds of requests in every step.
    """
    found = Decodes()
    decodes, prompts, spare = found.tracks, found.prompts, found.spare
    lengths, pace_s, least_s = timing.lengths, timing.pace_s, timing.least_s
    context = squares = blocks = 0
    cap_s = slack_s = tightest_s = inf
    most_s = -inf
    rate = 0.0
    for live in running:
        track = tracks[live]
        known = live.known_tokens
        output = live.output_tokens
        if not output or known - live.cached_tokens != 1:
            prompts.append(track)
            continue
        decodes.append(track)
        context += known
        squares += known * known
        if known > live.held_blocks * block_tokens:
            blocks += 1
        every_s = track.every_s
        if every_s:
            base_s = track.base_s
            if base_s == inf:
                base_s = track.schedule_from_s(lengths)
            left_s = base_s + output * every_s - now_s
            if left_s < 0 or track.is_relegated:
                timing.judge(track, left_s)
            allowed_s = left_s * SPEND
            if allowed_s < track.run_s:
                allowed_s = track.run_s
            per_s = track.rate
        elif track.deadline_s < inf:
            if output >= track.left_until:
                track.expect(lengths)
            every_s = (track.deadline_s - now_s) / track.left
            if every_s < least_s or track.is_relegated:
                track.relegate(every_s < least_s and track.may_relegate)
                every_s = max(every_s, least_s, LEAST_S)
            left_s = track.deadline_s - (track.left - 1) * pace_s - now_s
            if track.tpot_s < inf:
                left_s = min(left_s, track.schedule_from_s(lengths) + output * track.tpot_s - now_s)
                every_s = min(every_s, track.tpot_s)
            allowed_s = left_s * SPEND
            if allowed_s < every_s * RUN_RATE:
                allowed_s = every_s * RUN_RATE
            per_s = 1 / every_s
        else:
            spare.append(track)
            continue
        if track.is_relegated:
            spare.append(track)
            continue
        rate += per_s
        if every_s < tightest_s:
            tightest_s = every_s
        if left_s < slack_s:
            slack_s = left_s
        if left_s > most_s:
            most_s = left_s
            found.slackest = track
        if allowed_s < cap_s:
            cap_s = allowed_s
    found.cap_s, found.slack_s, found.tightest_s = cap_s, slack_s, tightest_s
    found.new_blocks, found.rate = blocks, rate
    if decodes:
        found.mix = Mix(len(decodes), context, decode_context_squares=squares)
    return found


class Timing(NamedTuple):
    """What judging a decode needs: expected lengths, the mean length of steps, and the shortest
    step that the present decodes could have."""

    lengths: Lengths
    pace_s: float
    least_s: float

    def judge(self, track: Track, slack_s: float) -> None:
        """Whether a decode can still be on schedule at its expected end."""
        if not track.may_relegate:
            return
        if track.live.output_tokens >= track.left_until:
            track.expect(self.lengths)
        won_s = max(track.tpot_s - self.least_s, RECOVERS * track.tpot_s)
        track.relegate(-slack_s > max(track.left * won_s, 2 * track.tpot_s))


def sit_out(
    found: Decodes, budget_s: float, cost: CostModel, fixed_s: float, timing: Timing, now_s: float
) -> list[Track]:
    """Who runs if decodes may take `budget_s`: those with most slack wait, if they can afford to.

    Changes `found.mix` to those that run.
    """
    base_s = cost.step_s(found.mix).upper_s
    each_s = (base_s - fixed_s) / len(found.tracks)
    if base_s <= budget_s or each_s <= 0:
        return found.tracks
    ranked = sorted((-_slack_s(track, timing, now_s), track.order, track) for track in found.tracks)
    leaving: list[Track] = []
    wait_s = TWO_STEPS * found.cap_s if found.cap_s < inf else inf
    for negative_s, _, track in ranked[: ceil((base_s - budget_s) / each_s)]:
        if -negative_s < wait_s:
            break
        if track.skipped < MOST_SKIPPED:
            leaving.append(track)
    left = len(found.tracks) - len(leaving)
    if not leaving or not left:
        return found.tracks
    known = [track.live.known_tokens for track in leaving]
    found.mix = found.mix - Mix(
        len(known), sum(known), decode_context_squares=sum(k * k for k in known)
    )
    gone = set(map(id, leaving))
    for track in found.tracks:
        track.skipped = track.skipped + 1 if id(track) in gone else 0
    return [track for track in found.tracks if id(track) not in gone]


def _slack_s(track: Track, timing: Timing, now_s: float) -> float:
    if not track.is_promised:
        return inf
    return track.token_due_s(timing.lengths, timing.pace_s) - now_s
