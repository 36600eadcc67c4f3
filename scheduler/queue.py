"""The waiting requests of one replica in the order they are served, kept from step to step.

Snapshots show the same `Live` objects again and again, so what changed since the last one is found
by comparing two lists, and thousands that wait cost next to nothing.
"""

from bisect import bisect_left, insort
from collections.abc import Callable, Sequence

from .policy import Live
from .track import Track

DueKey = tuple[float, tuple[int, float, str]]


def by_due(track: Track) -> DueKey:
    """The total order of those with a promise: earliest due first."""
    return track.due_s, track.order


def by_order(track: Track) -> tuple[int, float, str]:
    """The total order of those without, or whose promise is lost: priority, then arrival."""
    return track.order


class Queue:
    """`promised` in order of due time, and `spare` in order of arrival: no promise, or a lost one.

    `track_of` finds or makes the track of a live request.
    """

    def __init__(self, track_of: Callable[[Live], Track]) -> None:
        self.promised: list[Track] = []
        self.spare: list[Track] = []
        self._track_of = track_of
        self._seen: Sequence[Live] = []
        self._tracks: dict[Live, Track] = {}

    def sync(self, waiting: Sequence[Live]) -> None:
        """Take in who has come to wait since the last step, and forget who no longer does."""
        if waiting == self._seen:  # identical objects, so this compares addresses
            return
        tracks = self._tracks
        self._seen = waiting
        if len(waiting) < len(tracks) or tracks:
            gone = tracks.keys() - waiting
            for live in gone:
                self._remove(tracks.pop(live))
        if len(waiting) > len(tracks):
            for live in waiting:
                if live not in tracks:
                    self._insert(live)

    def relegate(self, track: Track) -> None:
        """Move a track whose promise is lost from the promised to the spare."""
        self._remove(track)
        track.is_relegated = True
        insort(self.spare, track, key=by_order)

    def _insert(self, live: Live) -> None:
        track = self._tracks[live] = self._track_of(live)
        if _is_spare(track):
            insort(self.spare, track, key=by_order)
        else:
            insort(self.promised, track, key=by_due)

    def _remove(self, track: Track) -> None:
        if _is_spare(track):
            del self.spare[bisect_left(self.spare, by_order(track), key=by_order)]
        else:
            del self.promised[bisect_left(self.promised, by_due(track), key=by_due)]


def _is_spare(track: Track) -> bool:
    return track.is_relegated or not track.due_s < float("inf")
