"""What a scaler is shown of a simulated fleet: replicas as they stand, and counts by class."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from hfx.scaler.policy import ReplicaState, State, Totals

from .flight import Flight
from .replica import Replica


@dataclass(slots=True)
class _Count:
    arrived: int = 0
    prompt_tokens: int = 0
    ended: int = 0
    output_tokens: int = 0
    missed: int = 0

    def totals(self) -> Totals:
        return Totals(self.arrived, self.prompt_tokens, self.ended, self.output_tokens, self.missed)


class Watch:
    """Counts arrivals and ends, and remembers how busy replicas were at the last look."""

    def __init__(self) -> None:
        self._counts: dict[str, _Count] = {}
        self._last_s = 0.0
        self._busy_s: dict[int, float] = {}

    def arrived(self, flight: Flight) -> None:
        """A request has come for the first time."""
        count = self._of(flight)
        count.arrived += 1
        count.prompt_tokens += flight.job.request.prompt_tokens

    def ended(self, flight: Flight) -> None:
        """It has ended, whatever became of it."""
        count = self._of(flight)
        count.ended += 1
        count.output_tokens += flight.fate.output_tokens
        count.missed += not flight.fate.meets

    def classes(self) -> dict[str, Totals]:
        """The counts so far, by class."""
        return {name: count.totals() for name, count in sorted(self._counts.items())}

    def look(
        self, replicas: Iterable[Replica], states: Mapping[int, tuple[State, float]], now_s: float
    ) -> list[ReplicaState]:
        """Replicas that serve; `states` says of each in which state it is since when."""
        took_s = now_s - self._last_s
        seen: list[ReplicaState] = []
        busy: dict[int, float] = {}
        for replica in replicas:
            state, since_s = states[replica.id]
            view, memory = replica.view, replica.memory
            busy[replica.id] = replica.busy_until(now_s)
            more_s = busy[replica.id] - self._busy_s.get(replica.id, 0.0)
            seen.append(
                ReplicaState(
                    replica.id,
                    state,
                    view.role,
                    since_s,
                    view.cost,
                    min(1.0, more_s / took_s) if took_s > 0 else 0.0,
                    1 - memory.available / memory.total,
                    len(replica.running),
                    len(replica.waiting),
                    view.prompt_tokens,
                )
            )
        self._busy_s, self._last_s = busy, now_s
        return seen

    def _of(self, flight: Flight) -> _Count:
        name = flight.job.request.objective.tier
        count = self._counts.get(name)
        if count is None:
            count = self._counts[name] = _Count()
        return count
