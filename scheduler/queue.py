"""The waiting requests of one replica in the order they are served, kept from step to step.

Snapshots show the same `Live` objects again and again. Who will have left by the next one is known,
so mostly two lists are compared, and thousands that wait cost next to nothing.
"""

from bisect import bisect_left, insort
from collections.abc import Callable, Sequence
from operator import attrgetter

from .policy import Live
from .track import Track


def by_due(track: Track) -> tuple[float, tuple[int, float, str]]:
    """The order of prompts with a promise: earliest due first."""
    return track.due_s, track.order


def by_order(track: Track) -> tuple[int, float, str]:
    """The order of those without, or whose promise is lost: priority, then arrival."""
    return track.order


arrival_s = attrgetter("arrival_s")
MOST_REPAIRS = 8  # changes in the middle of a list that are found one by one


def first_difference(some: Sequence[Live], others: Sequence[Live]) -> int:
    """The first index at which two sequences differ; the length of the shorter if none does."""
    low, high = 0, min(len(some), len(others))
    while low < high:
        middle = (low + high + 1) // 2
        if some[low:middle] == others[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low


class Queue:
    """`promised` in order of due time, and `spare` in order of arrival.

    `enter` finds or makes the track of a live request that has come to wait.
    """

    def __init__(self, enter: Callable[[Live], Track]) -> None:
        self.promised: list[Track] = []
        self.spare: list[Track] = []
        self._enter = enter
        self._expected: list[Live] = []
        self._tracks: dict[Live, Track] = {}

    def sync(self, waiting: Sequence[Live]) -> None:
        """Take in who has come to wait since the last step, and forget who no longer does."""
        expected = self._expected
        known = len(expected)
        if waiting == expected:  # this compares addresses
            return
        if len(waiting) <= known or waiting[:known] != expected:
            self._repair(waiting)
            known = len(expected)
        for live in waiting[known:]:
            self._arrive(live)
        expected.extend(waiting[known:])

    def leave(self, live: Live) -> None:
        """A request will not wait any longer: it starts, or has ended."""
        if live in self._tracks:
            expected = self._expected  # mostly in order of arrival
            at = bisect_left(expected, live.arrival_s, key=arrival_s)
            if at < len(expected) and expected[at] is live:
                del expected[at]
            else:
                expected.remove(live)
            self._forget(live)

    def _repair(self, waiting: Sequence[Live]) -> None:
        """Make what is expected the beginning of the list that there is: change by change where
        there are few, and from nothing where there are many."""
        expected = self._expected
        for _ in range(MOST_REPAIRS):
            at = first_difference(expected, waiting)
            if at == len(expected):
                return
            if at < len(waiting) and waiting[at] not in self._tracks:
                self._arrive(waiting[at])
                expected.insert(at, waiting[at])
            else:
                self._forget(expected.pop(at))
        for live in self._tracks.keys() - waiting:
            self._forget(live)
        for live in waiting:
            if live not in self._tracks:
                self._arrive(live)
        expected[:] = waiting

    def _arrive(self, live: Live) -> None:
        track = self._tracks[live] = self._enter(live)
        self._insert(track)

    def _forget(self, live: Live) -> None:
        self._remove(self._tracks.pop(live))

    def relegate(self, track: Track) -> None:
        """Move a track whose promise is lost from the promised to the spare."""
        self._remove(track)
        track.relegate()
        self._insert(track)

    def postpone(self, track: Track, now_s: float) -> None:
        """Give a track whose promise is lost a later due time, see `Track.postpone`."""
        self._remove(track)
        track.postpone(now_s)
        self._insert(track)

    def _insert(self, track: Track) -> None:
        if track.is_spare:
            insort(self.spare, track, key=by_order)
        else:
            insort(self.promised, track, key=by_due)

    def _remove(self, track: Track) -> None:
        if track.is_spare:
            del self.spare[bisect_left(self.spare, by_order(track), key=by_order)]
        else:
            del self.promised[bisect_left(self.promised, by_due(track), key=by_due)]
