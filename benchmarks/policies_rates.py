"""At which rate a share of promises is still kept: bisection over measured rates. Per second."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

GROWTH = 1.25  # of the rate, while the answer lies beyond all that was asked
INNER = 0.2  # of a bracket: how close to its ends a new rate may lie
MOST_GROWTH = 12  # steps


@dataclass(slots=True)
class Search:
    """The highest rate that keeps `level`, from shares at several rates.

    Ends when the rates around it are within `tolerance` of each other, or after `most` questions.
    """

    level: float
    start: float
    tolerance: float = 1.02
    most: int = 8
    known: dict[float, float] = field(default_factory=dict)
    asked: int = 0

    def ask(self) -> float | None:
        """The rate to try next; None: it is known well enough."""
        low, high = self.bracket()
        if self.asked >= self.most:
            return None
        if low is None and high is None:
            return _round(self.start)
        if low is None or high is None:
            beyond = low * GROWTH if low is not None else (high or 0.0) / GROWTH
            return _round(beyond) if len(self.known) <= MOST_GROWTH else None
        if high <= low * self.tolerance:
            return None
        share = (self.known[low] - self.level) / (self.known[low] - self.known[high])
        share = min(1 - INNER, max(INNER, share))
        return _round(low + share * (high - low))

    def tell(self, rate: float, share: float) -> None:
        """What a rate has kept."""
        self.known[rate] = share
        self.asked += 1

    def bracket(self) -> tuple[float | None, float | None]:
        """The highest rate that keeps the level, and the next one that was tried."""
        low = max((rate for rate, share in self.known.items() if share >= self.level), default=None)
        above = [rate for rate in self.known if low is None or rate > low]
        return low, min(above, default=None)

    @property
    def rate(self) -> float | None:
        """The answer, between the two rates around it by a straight line; None: none keeps it."""
        return rate_at(self.known, self.level)


def rate_at(known: Mapping[float, float], level: float) -> float | None:
    """The highest rate that keeps `level`, by straight lines between what was measured.

    The highest one measured if even that keeps it; None if none does.
    """
    rates = sorted(known)
    low = max((rate for rate in rates if known[rate] >= level), default=None)
    if low is None:
        return None
    high = min((rate for rate in rates if rate > low), default=None)
    if high is None or known[low] == known[high]:
        return low
    return low + (high - low) * (known[low] - level) / (known[low] - known[high])


def _round(rate: float) -> float:
    """Four digits: a rate that a person can repeat."""
    return float(f"{rate:.4g}")
