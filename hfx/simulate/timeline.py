"""A fleet over time, for people to look at: who is there, what waits, how busy it is. Seconds."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .fleet import Fleet

SAMPLES = 240  # of the time in which requests arrive
MOST_SAMPLES = 2 * SAMPLES  # then every second one goes


@dataclass(slots=True)
class Timeline:
    """Watches a fleet, and remembers about `SAMPLES` moments of the first `horizon_s`.

    `replicas` holds a row for each state. `busy` is the share of the time since the moment before
    in which the replicas that were there have computed.
    """

    horizon_s: float
    time_s: list[float] = field(default_factory=list)
    queued: list[int] = field(default_factory=list)
    waiting: list[int] = field(default_factory=list)
    running: list[int] = field(default_factory=list)
    busy: list[float] = field(default_factory=list)
    replicas: dict[str, list[int]] = field(default_factory=dict)
    _busy_s: float = 0.0
    _step_s: float = 0.0

    def __post_init__(self) -> None:
        self._step_s = self.horizon_s / SAMPLES

    def __call__(self, now_s: float, fleet: Fleet) -> float:
        """Look at a fleet as it stood until now; when to look again."""
        if len(self.time_s) >= MOST_SAMPLES:
            self._thin()
        last_s = self.time_s[-1] if self.time_s else 0.0
        states = fleet.states()
        busy_s, there_s = fleet.busy_s(now_s), (now_s - last_s) * sum(states.values())
        self.busy.append(min(1.0, (busy_s - self._busy_s) / there_s) if there_s else 0.0)
        self._busy_s = busy_s
        for state in {**self.replicas, **states}:
            row = self.replicas.setdefault(state, [0] * len(self.time_s))
            row.append(states.get(state, 0))
        self.time_s.append(now_s)
        self.queued.append(fleet.queued)
        self.waiting.append(sum(len(replica.waiting) for replica in fleet.replicas.values()))
        self.running.append(sum(len(replica.running) for replica in fleet.replicas.values()))
        return now_s + self._step_s

    def _thin(self) -> None:
        """Forget every second moment, and look half as often."""
        pairs = zip(self.busy[::2], self.busy[1::2], strict=True)
        self.busy = [(one + other) / 2 for one, other in pairs]
        del self.time_s[::2]
        for row in (self.queued, self.waiting, self.running, *self.replicas.values()):
            del row[::2]
        self._step_s *= 2

    def plain(self) -> dict[str, Any]:
        """What was seen, as JSON holds it."""
        return {
            "time_s": self.time_s,
            "queued": self.queued,
            "waiting": self.waiting,
            "running": self.running,
            "busy": self.busy,
            "replicas": self.replicas,
        }
