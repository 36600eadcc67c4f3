"""Which promised prompts can be kept, and how hard they press: a demand-bound test over due times.

Until time t the prompts due by t must have been computed, in what decodes leave of the time: a
share of it, and once the slack that live decodes have gathered. Where that can't be, the largest
prompts for their weight are put off until the rest fits (Moore and Hodgson 1968: the most kept
promises on one machine). Seconds.
"""

from collections.abc import Sequence
from heapq import heappop, heappush
from typing import NamedTuple

from .track import Track

LEAST_S = 1e-3  # before a due time: what lies nearer is due now


class Supply(NamedTuple):
    """What prompts may have of the time from now on: a share of it, and all of it as long as live
    decodes can do without a step."""

    now_s: float
    share: float
    slack_s: float

    def within_s(self, left_s: float) -> float:
        """The time for prompts in the next `left_s`."""
        free_s = self.slack_s if self.slack_s < left_s else left_s
        return self.share * left_s + (1 - self.share) * free_s


class Selection(NamedTuple):
    """`kept` and `put_off`, each in order of due time; `pressure`: the least share of the time that
    keeps every promise of the kept."""

    kept: Sequence[Track]
    put_off: Sequence[Track]
    pressure: float


def select(tracks: Sequence[Track], supply: Supply) -> Selection:
    """Choose among prompts that are given in order of due time."""
    now_s, share, slack_s = supply.now_s, supply.share, supply.slack_s
    work_s = pressure = 0.0
    for track in tracks:
        work_s += track.work_s
        left_s = track.due_s - now_s
        free_s = slack_s if slack_s < left_s else left_s
        if work_s > share * left_s + (1 - share) * free_s:
            return _selected(tracks, supply)
        pressing = work_s / left_s if left_s > LEAST_S else work_s / LEAST_S
        if pressing > pressure:
            pressure = pressing
    return Selection(tracks, (), pressure)


def _selected(tracks: Sequence[Track], supply: Supply) -> Selection:
    """The same where not all can be kept."""
    heap: list[tuple[float, int]] = []
    off: set[int] = set()
    now_s, within_s = supply.now_s, supply.within_s
    work_s = pressure = 0.0
    for index, track in enumerate(tracks):
        work_s += track.work_s
        if track.may_relegate:
            heappush(heap, (-track.work_s / track.weight, index))
        left_s = track.due_s - now_s
        time_s = within_s(left_s)
        while work_s > time_s and heap:
            _, victim = heappop(heap)
            off.add(victim)
            work_s -= tracks[victim].work_s
        pressing = work_s / left_s if left_s > LEAST_S else work_s / LEAST_S
        if pressing > pressure:
            pressure = pressing
    kept = [track for index, track in enumerate(tracks) if index not in off]
    return Selection(kept, [tracks[index] for index in sorted(off)], pressure)
