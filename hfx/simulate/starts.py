"""How a simulated replica comes to be: fixed phases, then weights from a disk or a running replica.

Weights from a running replica go over the same links as keys and values. If their donor is gone,
the rest comes from another, or from the disk. Seconds, bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from hfx.cost.link import Link, Startup

from .links import Links, Transfer

DISK = Link(bytes_per_s=2e9)  # one NVMe drive, as loaders reach it


@dataclass(frozen=True, slots=True, kw_only=True)
class ColdStart:
    """What a start takes: the phases of `startup`, then its weights.

    `from_replicas`: from a replica that is ready, over links, where there is one; else from `disk`.
    """

    startup: Startup = field(default_factory=lambda: Startup({}))
    disk: Link = DISK
    from_replicas: bool = False

    @classmethod
    def taking(cls, seconds: float, weight_bytes: int = 0) -> ColdStart:
        """From a disk, in so many seconds in all: a fifth for the phases, the rest for weights.

        Raises:
            ValueError: the time is negative or not finite.
        """
        if not seconds or not weight_bytes:
            return cls(startup=Startup({"all": seconds}))
        startup = Startup({"process": seconds / 5}, weight_bytes)
        return cls(startup=startup, disk=Link(weight_bytes / (0.8 * seconds)))

    @property
    def fixed_s(self) -> float:
        """Before the weights."""
        return sum(self.startup.phases_s.values())

    def expected_s(self, link: Link, has_donor: bool) -> float:
        """A whole start, alone on its link."""
        return self.startup.seconds(link if self.from_replicas and has_donor else self.disk)


@dataclass(slots=True, eq=False)
class Starting:
    """A replica that isn't ready. `timer` is the event it waits for, `transfer` its weights."""

    id: int
    left_bytes: float
    timer: int = 0
    is_loading: bool = False
    transfer: Transfer | None = None


class Starts:
    """All replicas that start; `at` makes an event for one of them and gives its number."""

    def __init__(self, cold: ColdStart, links: Links, at: Callable[[float, int], int]) -> None:
        self.cold = cold
        self.starting: dict[int, Starting] = {}
        self._links = links
        self._at = at
        self._transfers: dict[int, Starting] = {}

    def begin(self, id: int, now_s: float) -> None:
        """Order one."""
        start = Starting(id, self.cold.startup.weight_bytes)
        self.starting[id] = start
        start.timer = self._at(now_s + self.cold.fixed_s, id)

    def give_up(self, id: int, now_s: float) -> None:
        """It isn't wanted any more, or it failed."""
        start = self.starting.pop(id)
        if start.transfer is not None:
            del self._transfers[start.transfer.number]
            self._links.cancel(start.transfer, now_s)

    def passed(self, id: int, timer: int, donors: Iterable[int], now_s: float) -> bool:
        """A phase is over, unless the event is out of date; whether the replica is ready."""
        start = self.starting.get(id)
        if start is None or start.timer != timer:
            return False
        if not start.is_loading and start.left_bytes:
            self._load(start, donors, now_s)
            return False
        del self.starting[id]
        return True

    def ended(self, transfer: Transfer) -> int:
        """Weights have arrived: the replica that they make ready."""
        start = self._transfers.pop(transfer.number)
        del self.starting[start.id]
        return start.id

    def lost(self, donor: int, donors: Iterable[int], now_s: float) -> None:
        """A donor is gone: what it has not sent comes from elsewhere."""
        for start in list(self._transfers.values()):
            transfer = start.transfer
            assert transfer is not None
            if transfer.source == donor:
                del self._transfers[transfer.number]
                self._links.cancel(transfer, now_s)
                start.transfer, start.left_bytes = None, transfer.left_bytes
                self._load(start, donors, now_s)

    def _load(self, start: Starting, donors: Iterable[int], now_s: float) -> None:
        start.is_loading = True
        busy = [transfer.source for each in self._transfers.values() if (transfer := each.transfer)]
        able = sorted((busy.count(id), id) for id in donors) if self.cold.from_replicas else []
        if not able:
            start.timer = self._at(now_s + self.cold.disk.seconds(start.left_bytes), start.id)
            return
        start.transfer = self._links.start(able[0][1], start.id, start.left_bytes, now_s)
        self._transfers[start.transfer.number] = start
