"""A scaler at work on a simulated fleet: it is shown the fleet, and its orders are carried out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from hfx.scaler import build_scaler
from hfx.scaler.policy import FleetView, ReplicaState, Scaler, Start, Stop

from .starts import ColdStart
from .watch import Watch

if TYPE_CHECKING:
    from .fleet import Fleet


@dataclass(frozen=True, slots=True, kw_only=True)
class Scaling:
    """A scaler by name, its limits, and what a start takes.

    `needed` says how many replicas each slot of the traffic takes, see `build_scaler`.

    Raises:
        ValueError: there is no such scaler, or the limits contradict each other.
    """

    scaler: str
    least: int = 1
    most: int = 1 << 30
    cold_start: ColdStart = field(default_factory=ColdStart)
    needed: Sequence[float] = ()

    def __post_init__(self) -> None:
        self.elastic()

    def elastic(self) -> Elastic:
        """The scaler, new."""
        scaler = build_scaler(self.scaler, self.needed)
        return Elastic(scaler, least=self.least, most=self.most)


class Elastic:
    """Between `least` and `most` replicas, as the scaler orders; for one run.

    Raises:
        ValueError: the limits contradict each other.
    """

    def __init__(self, scaler: Scaler, *, least: int = 0, most: int = 1 << 30) -> None:
        if not 0 <= least <= most or most < 1:
            raise ValueError(
                f"at least {least} and at most {most} replicas: give 0 <= least <= most, and most "
                "at least 1"
            )
        self.scaler = scaler
        self.least = least
        self.most = most
        self.watch = Watch()

    @property
    def wake_s(self) -> float:
        """When the scaler wants to be asked."""
        return self.scaler.wake_s

    def look(self, fleet: Fleet, now_s: float) -> None:
        """Show the fleet to the scaler, and do what it says as far as the limits allow."""
        for order in self.scaler.decide(self._view(fleet, now_s)):
            ready = fleet.roster.ready_ids
            size = len(ready) + len(fleet.roster.coming)
            if isinstance(order, Start):
                for _ in range(min(order.count, self.most - size)):
                    fleet.start(order.role, now_s)
            elif isinstance(order, Stop):
                id = order.replica_id
                assert id in fleet.roster.coming or id in ready, f"replica {id} isn't to be stopped"
                if size > self.least:
                    fleet.stop(id, now_s)
            else:
                fleet.flip(order.replica_id, order.role, now_s)

    def _view(self, fleet: Fleet, now_s: float) -> FleetView:
        roster = fleet.roster
        states = {id: roster.state(id) for id in (*roster.replicas, *roster.coming)}
        seen = self.watch.look(roster.replicas.values(), states, now_s)
        seen += [
            ReplicaState(id, *states[id][:1], replica.view.role, states[id][1], replica.view.cost)
            for id, replica in roster.coming.items()
        ]
        unserved = [*fleet.unbound, *fleet.homeless]
        return FleetView(
            now_s,
            tuple(sorted(seen, key=lambda state: state.id)),
            self.watch.classes(),
            len(unserved),
            len(fleet.homeless),
            sum(flight.live.known_tokens for flight in unserved),
            fleet.starts.cold.expected_s(fleet.links.link, roster.has_ready),
            self.least,
            self.most,
        )
