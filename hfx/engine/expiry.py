"""Which requests are past a hard deadline, found without looking at each of them. Seconds."""

from heapq import heapify, heappop, heappush

from .sequence import Sequence

SPARE = 64  # ended requests that may stay among the live ones before they are swept out


class Expiries:
    """Sequences with a hard deadline, the earliest first."""

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, Sequence]] = []
        self._added = 0
        self._most = SPARE

    def add(self, sequence: Sequence) -> None:
        """Watch a sequence, if it has a hard deadline."""
        expires_s = sequence.expires_s
        if expires_s is None:
            return
        self._added += 1
        heappush(self._heap, (expires_s, self._added, sequence))
        if len(self._heap) > self._most:
            self._heap = [entry for entry in self._heap if not entry[2].is_finished]
            heapify(self._heap)
            self._most = 2 * len(self._heap) + SPARE

    def due(self, now_s: float) -> list[str]:
        """The ids of live requests whose deadline has passed; each is named once."""
        ids: list[str] = []
        while self._heap and self._heap[0][0] < now_s:
            sequence = heappop(self._heap)[2]
            if not sequence.is_finished:
                ids.append(sequence.id)
        return ids
