"""Which promised prompts can be kept, and how hard they press: a demand-bound test over due times.

Until time t the prompts due by t must have been computed, in what decodes leave of the time: a
share of it, and once the slack that live decodes have gathered. Where that can't be, the largest
prompts for their weight are put off until the rest fits (Moore and Hodgson 1968: the most kept
promises on one machine). Seconds.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from heapq import heappop, heappush

from .track import Track

LEAST_S = 1e-3  # before a due time: what lies nearer is due now


@dataclass(frozen=True, slots=True)
class Supply:
    """What prompts may have of the time from now on: `share` of it, and `credit_s` at once."""

    now_s: float
    share: float
    credit_s: float

    def until_s(self, due_s: float) -> float:
        """Time for prompts until then."""
        return self.share * (due_s - self.now_s) + self.credit_s


@dataclass(slots=True)
class Selection:
    """`kept` in order of due time; `put_off` in the order they were; `pressure`: the least share
    of the time that keeps every promise of the kept."""

    kept: list[Track] = field(default_factory=list)
    put_off: list[Track] = field(default_factory=list)
    pressure: float = 0.0


def select(tracks: Iterable[Track], supply: Supply) -> Selection:
    """Choose among prompts that are given in order of due time."""
    heap: list[tuple[float, int, Track]] = []
    off: set[int] = set()
    work_s, pressure, ordered = 0.0, 0.0, []
    for index, track in enumerate(tracks):
        work_s += track.work_s
        ordered.append(track)
        if track.live.request.objective.may_relegate:
            heappush(heap, (-track.work_s / track.weight, index, track))
        while heap and work_s > supply.until_s(track.due_s):
            _, victim, dropped = heappop(heap)
            off.add(victim)
            work_s -= dropped.work_s
        left_s = track.due_s - supply.now_s
        pressure = max(pressure, work_s / max(left_s, LEAST_S))
    if not off:
        return Selection(ordered, [], pressure)
    kept = [track for index, track in enumerate(ordered) if index not in off]
    put_off = [track for index, track in enumerate(ordered) if index in off]
    return Selection(kept, put_off, pressure)
