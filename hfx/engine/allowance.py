"""Whether there is time for work that can be left out: a share of the time, saved up to a burst.

Seconds, on the caller's clock.
"""


class Allowance:
    """Time that grows with the clock and is spent by what it is asked for."""

    def __init__(self, share: float, burst_s: float) -> None:
        self._share = share
        self._burst_s = burst_s
        self._saved_s = burst_s
        self._now_s: float | None = None

    def has_time(self, now_s: float) -> bool:
        """Whether work may begin; it may then take longer than what is left, and is owed."""
        if self._now_s is not None:
            grown_s = self._saved_s + (now_s - self._now_s) * self._share
            self._saved_s = min(self._burst_s, grown_s)
        self._now_s = now_s
        return self._saved_s > 0

    def spend(self, now_s: float) -> None:
        """The work that began when it was last asked has ended."""
        assert self._now_s is not None, "ask has_time first"
        self._saved_s -= now_s - self._now_s
        self._now_s = now_s
