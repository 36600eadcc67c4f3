"""A scaler that always wants the same number of replicas."""

from __future__ import annotations

from collections.abc import Sequence
from math import inf

from .policy import FleetView, Order, resize


class Static:
    """Always so many replicas; one that is gone is replaced when somebody waits for it.

    Raises:
        ValueError: the number is negative.
    """

    def __init__(self, replicas: int) -> None:
        if replicas < 0:
            raise ValueError(f"replicas is {replicas}: at least 0")
        self.replicas = replicas
        self.wake_s = 0.0

    def decide(self, view: FleetView) -> Sequence[Order]:
        """See `Scaler.decide`."""
        self.wake_s = inf
        return resize(view, max(self.replicas, 1 if view.held else 0))
