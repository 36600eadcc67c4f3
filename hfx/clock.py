"""Where time comes from: the machine's monotonic clock, or a clock that a test or simulator sets.

Times are seconds on one clock whose zero means nothing. The pure layers (scheduler, cost, scaler
policy) never read a clock; they are told the time by the layer that owns one of these.
"""

import time
from typing import Protocol


class Clock(Protocol):
    """Anything that says what time it is, in seconds that never run backwards."""

    def now_s(self) -> float:
        """The present time."""
        ...


class MonotonicClock:
    """The operating system's monotonic clock."""

    def now_s(self) -> float:
        return time.monotonic()


class VirtualClock:
    """A clock that stands still until it is moved: for simulators and tests."""

    def __init__(self, start_s: float = 0.0) -> None:
        self._now_s = start_s

    def now_s(self) -> float:
        return self._now_s

    def advance(self, seconds: float) -> None:
        """Move forward.

        Raises:
            ValueError: `seconds` is negative.
        """
        if seconds < 0:
            raise ValueError(f"a clock can't run backwards: advance({seconds}) is negative")
        self._now_s += seconds
