"""How long transfers between replicas take that share links: max-min fair, recomputed as they come.

A replica sends over one link and receives over another, of its own bandwidth each. Transfers that
meet on a link share it; what one of them can't use, because its other end is busier, goes to the
others. Seconds, bytes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from heapq import heappop, heappush
from math import inf

from hfx.cost.link import Link

OUT, IN = 0, 1
End = tuple[int, int]  # a replica, and whether it sends or receives


class Transfer:
    """Bytes on their way; `left_bytes` as of `at_s`, from when on they flow at `bytes_per_s`."""

    __slots__ = (
        "at_s",
        "bytes_per_s",
        "end_s",
        "latency_s",
        "left_bytes",
        "nbytes",
        "number",
        "source",
        "target",
    )

    def __init__(
        self, number: int, source: int, target: int, nbytes: float, now_s: float, latency_s: float
    ) -> None:
        self.number = number
        self.source = source
        self.target = target
        self.nbytes = nbytes
        self.left_bytes = nbytes
        self.at_s = now_s
        self.bytes_per_s = 0.0
        self.latency_s = latency_s
        self.end_s = inf

    @property
    def ends(self) -> tuple[End, End]:
        """The two links that it uses."""
        return (self.source, OUT), (self.target, IN)

    def advance(self, now_s: float) -> None:
        """Count what has flowed until now."""
        left = self.left_bytes - self.bytes_per_s * (now_s - self.at_s)
        self.left_bytes, self.at_s = max(0.0, left), now_s


class Links:
    """Every replica's two links: `link` each, or what `own` says of a replica.

    A link's delay comes once, after the last byte has left, and holds nobody else up.
    """

    def __init__(self, link: Link, own: Mapping[int, Link] | None = None) -> None:
        self.link = link
        self.own = dict(own or {})
        self.next_s = inf  # when `ended` has something to say
        self._made = 0
        self._at: dict[End, dict[int, Transfer]] = {}
        self._heap: list[tuple[float, int, Transfer]] = []

    def of(self, replica_id: int) -> Link:
        """A replica's link."""
        return self.own.get(replica_id, self.link)

    def start(self, source: int, target: int, nbytes: float, now_s: float) -> Transfer:
        """Send bytes from one replica to another; nothing at all arrives at once.

        Raises:
            ValueError: the replicas are the same, or the number of bytes is negative.
        """
        if source == target or not 0 <= nbytes < inf:
            raise ValueError(
                f"{nbytes} bytes from replica {source} to {target}: give a finite number, at least "
                "0, and two replicas"
            )
        latency_s = max(self.of(source).latency_s, self.of(target).latency_s) if nbytes else 0.0
        self._made += 1
        transfer = Transfer(self._made, source, target, nbytes, now_s, latency_s)
        if nbytes:
            for end in transfer.ends:
                self._at.setdefault(end, {})[transfer.number] = transfer
            self._share(transfer.ends, now_s)
        else:
            self._expect(transfer, now_s)
        return transfer

    def cancel(self, transfer: Transfer, now_s: float) -> None:
        """Stop a transfer; what it used goes to the others."""
        transfer.advance(now_s)
        transfer.bytes_per_s, transfer.end_s = 0.0, inf
        self._free(transfer, now_s)

    def ended(self, now_s: float) -> Iterator[Transfer]:
        """Those that have arrived by now, in order of time, each once."""
        while self.next_s <= now_s:
            end_s, _, transfer = heappop(self._heap)
            transfer.left_bytes, transfer.at_s, transfer.bytes_per_s = 0.0, end_s, 0.0
            transfer.end_s = inf
            self._free(transfer, end_s)
            if not transfer.latency_s:
                yield transfer
                continue
            self._expect(transfer, end_s + transfer.latency_s)
            transfer.latency_s = 0.0

    def flowing(self) -> list[Transfer]:
        """Those whose bytes are leaving, in the order in which they began."""
        found = {n: each for row in self._at.values() for n, each in row.items()}
        return [found[n] for n in sorted(found)]

    def _free(self, transfer: Transfer, now_s: float) -> None:
        for end in transfer.ends:
            row = self._at.get(end, {})
            row.pop(transfer.number, None)
            if not row:
                self._at.pop(end, None)
        self._share(transfer.ends, now_s)

    def _share(self, ends: Iterable[End], now_s: float) -> None:
        """Share links anew among all that these ends have to do with, however far away.

        Progressive filling: the link that gives each of its transfers least decides about them.
        """
        rows = self._connected(ends)
        room = {end: self.of(end[0]).bytes_per_s for end in rows}
        while rows:
            each, end = min((room[end] / len(row), end) for end, row in rows.items())
            for transfer in rows[end].values():
                for other in transfer.ends:
                    if other != end:
                        room[other] -= each
                        del rows[other][transfer.number]
                        if not rows[other]:
                            del rows[other]
                self._flow(transfer, each, now_s)
            del rows[end]
        self._look()

    def _connected(self, ends: Iterable[End]) -> dict[End, dict[int, Transfer]]:
        """The transfers of every link that is tied to some by a chain of transfers."""
        rows: dict[End, dict[int, Transfer]] = {}
        left = [end for end in ends if end in self._at]
        while left:
            end = left.pop()
            if end not in rows:
                rows[end] = dict(self._at[end])
                left += [other for each in rows[end].values() for other in each.ends]
        return rows

    def _flow(self, transfer: Transfer, bytes_per_s: float, now_s: float) -> None:
        if transfer.bytes_per_s != bytes_per_s:
            transfer.advance(now_s)
            transfer.bytes_per_s = bytes_per_s
            self._expect(transfer, now_s + transfer.left_bytes / bytes_per_s)

    def _expect(self, transfer: Transfer, end_s: float) -> None:
        transfer.end_s = end_s
        heappush(self._heap, (end_s, transfer.number, transfer))
        self._look()

    def _look(self) -> None:
        """Forget ends that were moved since."""
        heap = self._heap
        while heap and heap[0][2].end_s != heap[0][0]:
            heappop(heap)
        self.next_s = heap[0][0] if heap else inf
