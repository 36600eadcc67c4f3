"""Puts numbered messages back in order: late ones wait for those before, repeated ones are dropped.

Numbers begin at 1. A gap that does not close says that messages are lost.
"""

from __future__ import annotations

from typing import Generic, TypeVar

T = TypeVar("T")

MOST_EARLY = 256  # kept while one before them is missing


class Ordered(Generic[T]):
    """One direction of one connection; times are the caller's, in seconds."""

    def __init__(self) -> None:
        self.last = 0  # all up to this number have been handed on
        self.gap_since_s: float | None = None
        self._early: dict[int, T] = {}

    def take(self, number: int, item: T, now_s: float) -> list[T]:
        """What can be handed on now that this one has come, in order; often just it."""
        if number <= self.last or number in self._early:
            return []
        if number == self.last + 1 and not self._early:  # as it is nearly always
            self.last = number
            return [item]
        self._early[number] = item
        ready: list[T] = []
        while self.last + 1 in self._early:
            self.last += 1
            ready.append(self._early.pop(self.last))
        if ready or self.gap_since_s is None:
            self.gap_since_s = now_s if self._early else None
        return ready

    def is_broken(self, now_s: float, patience_s: float) -> bool:
        """Whether a missing message won't come any more."""
        if len(self._early) > MOST_EARLY:
            return True
        return self.gap_since_s is not None and now_s - self.gap_since_s > patience_s
