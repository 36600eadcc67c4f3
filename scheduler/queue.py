"""The waiting requests of one replica in the order they are served, kept from step to step.

Snapshots show the same `Live` objects again and again. Who will have left by the next one is known,
so mostly two lists are compared, and thousands that wait cost next to nothing.
"""

from bisect import bisect_left, insort
from collections.abc import Callable, Sequence

from .policy import Live
from .track import Track


def by_due(track: Track) -> tuple[float, tuple[int, float, str]]:
    """The order of prompts with a promise: earliest due first."""
    return track.due_s, track.order


def by_order(track: Track) -> tuple[int, float, str]:
    """The order of those without, or whose promise is lost: priority, then arrival."""
    return track.order


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
        if len(waiting) >= known and waiting[:known] == expected:  # this compares addresses
            arrived = waiting[known:]
        else:
            for live in self._tracks.keys() - waiting:
                self._forget(live)
            arrived = [live for live in waiting if live not in self._tracks]
            expected[:] = waiting
            known = len(expected)
        expected.extend(waiting[known:])
        for live in arrived:
            track = self._tracks[live] = self._enter(live)
            self._insert(track)

    def leave(self, live: Live) -> None:
        """A request will not wait any longer: it starts, or has ended."""
        if live in self._tracks:
            self._expected.remove(live)
            self._forget(live)

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
