"""What a scaler sees and what it answers: a fleet as it stands, and orders as values.

Pure: no clock, no random source, no torch. Counts are since the fleet began, so that a scaler takes
differences over whatever time it likes. Times are seconds, sizes tokens.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

from hfx.cost import CostModel
from hfx.scheduler.dispatch_view import Flip, Role

State = Literal["starting", "ready", "draining"]


@dataclass(frozen=True, slots=True)
class ReplicaState:
    """One replica that costs something; `since_s` is when its state began.

    `utilisation` is the share of the time since the last look that it computed, `cache_used` the
    share of its key-value blocks that are taken. `prompt_tokens` are still to compute.
    """

    id: int
    state: State
    role: Role
    since_s: float
    cost: CostModel
    utilisation: float = 0.0
    cache_used: float = 0.0
    running: int = 0
    waiting: int = 0
    prompt_tokens: int = 0


@dataclass(frozen=True, slots=True)
class Totals:
    """Of one class: what has arrived and what has ended, `missed` of which broke their promise."""

    arrived: int = 0
    prompt_tokens: int = 0
    ended: int = 0
    output_tokens: int = 0
    missed: int = 0


@dataclass(frozen=True, slots=True)
class FleetView:
    """A fleet at one moment.

    `queued` requests are bound to no replica, `held` of them because none is ready. A replica that
    is ordered now is ready after about `start_s`. Between `least` and `most` replicas may be there.
    """

    now_s: float
    replicas: tuple[ReplicaState, ...]
    classes: Mapping[str, Totals] = field(default_factory=dict)
    queued: int = 0
    held: int = 0
    queued_tokens: int = 0
    start_s: float = 0.0
    least: int = 0
    most: int = 1 << 30

    def of(self, *states: State) -> list[ReplicaState]:
        """The replicas in these states, by id."""
        return [replica for replica in self.replicas if replica.state in states]

    @property
    def size(self) -> int:
        """Replicas that serve, or will."""
        return len(self.of("starting", "ready"))

    def within(self, replicas: int) -> int:
        """That many, as far as the limits allow."""
        return max(self.least, min(self.most, replicas))


@dataclass(frozen=True, slots=True)
class Start:
    """More replicas, ordered at once."""

    count: int = 1
    role: Role = "mixed"


@dataclass(frozen=True, slots=True)
class Stop:
    """A replica takes no more work, and goes when it has none; one that starts is given up."""

    replica_id: int


Order = Start | Stop | Flip


class Scaler(Protocol):
    """Decides how many replicas there should be. The same views give the same orders.

    It is asked at `wake_s`, at the latest, and whenever requests are held because no replica is
    ready or starting. Orders beyond the fleet's limits are not carried out.
    """

    @property
    def wake_s(self) -> float:
        """The next time at which it wants to be asked; infinite: never."""
        ...

    def decide(self, view: FleetView) -> Sequence[Order]:
        """What should change now; afterwards `wake_s` lies in the future."""
        ...


def resize(view: FleetView, wanted: int, role: Role = "mixed") -> list[Order]:
    """Orders that bring the fleet to that many replicas, within its limits.

    Those that start are given up first, the youngest first; then those with least to do go.
    """
    wanted = view.within(wanted)
    surplus = view.size - wanted
    if surplus < 0:
        return [Start(-surplus, role)]
    starting = sorted(view.of("starting"), key=lambda one: (-one.since_s, -one.id))
    ready = sorted(view.of("ready"), key=lambda one: (one.running + one.waiting, -one.id))
    return [Stop(one.id) for one in (starting + ready)[:surplus]]
