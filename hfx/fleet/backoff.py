"""When a replica that has died is started again: later each time, and not at all for a while after
many deaths in a row. Seconds."""

from __future__ import annotations

from dataclasses import dataclass

FIRST_S = 0.25
MOST_S = 30.0
HEALTHY_S = 10.0  # of being ready: what dies later than that was well
MOST_DEATHS = 5  # in a row, before any was healthy: then it is a crash loop
OPEN_S = 60.0  # how long a crash loop's circuit stays open; then it is tried once


@dataclass(slots=True)
class Backoff:
    """Of one replica. `deaths` counts those in a row, none of which was healthy before."""

    deaths: int = 0
    is_open: bool = False

    def died(self, ready_for_s: float | None) -> float:
        """It has died, so long after it was ready (None: it never was); the wait before a start."""
        if ready_for_s is not None and ready_for_s >= HEALTHY_S:
            self.deaths, self.is_open = 0, False
        self.deaths += 1
        self.is_open = self.deaths >= MOST_DEATHS
        if self.is_open:
            return OPEN_S
        return min(MOST_S, FIRST_S * 2.0 ** (self.deaths - 1))

    def is_well(self, ready_for_s: float) -> bool:
        """It has been ready for so long; whether that has just closed an open circuit."""
        if ready_for_s < HEALTHY_S or not self.deaths:
            return False
        was_open, self.deaths, self.is_open = self.is_open, 0, False
        return was_open

    def forgive(self) -> None:
        """Begin anew: somebody has asked for another try."""
        self.deaths, self.is_open = 0, False
