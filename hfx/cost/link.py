"""What moving and loading costs: links, and the phases of a start. Units: seconds, bytes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Link:
    """A way for bytes: a fixed delay, then a rate.

    Raises:
        ValueError: the rate is not positive and finite, or the delay is negative.
    """

    bytes_per_s: float
    latency_s: float = 0.0

    def __post_init__(self) -> None:
        if not 0 < self.bytes_per_s < math.inf:
            raise ValueError(f"bytes_per_s is {self.bytes_per_s}: a link needs a rate above 0")
        if not 0 <= self.latency_s < math.inf:
            raise ValueError(f"latency_s is {self.latency_s}: a delay is finite and at least 0")

    def seconds(self, nbytes: float) -> float:
        """How long `nbytes` take; nothing takes no time.

        Raises:
            ValueError: the number of bytes is negative or not finite.
        """
        if not 0 <= nbytes < math.inf:
            raise ValueError(f"nbytes is {nbytes}: give a finite number of bytes, at least 0")
        return self.latency_s + nbytes / self.bytes_per_s if nbytes else 0.0


@dataclass(frozen=True, slots=True)
class Startup:
    """What stands between the wish for a replica and its first step.

    `phases_s` are the parts that take their time whatever the weights (process, imports, memory
    pool, graphs, warm-up); reading the weights is priced from their size and a link.

    Raises:
        ValueError: a phase or the size is negative or not finite.
    """

    phases_s: Mapping[str, float]
    weight_bytes: int = 0

    def __post_init__(self) -> None:
        for name, seconds in (*self.phases_s.items(), ("weight_bytes", self.weight_bytes)):
            if not 0 <= seconds < math.inf:
                raise ValueError(f"startup {name} is {seconds}: it must be finite and at least 0")

    def by_phase_s(self, weights: Link) -> dict[str, float]:
        """Every phase and its seconds, `weights` (over that link) among them."""
        return {**self.phases_s, "weights": weights.seconds(self.weight_bytes)}

    def seconds(self, weights: Link) -> float:
        """The whole start, one phase after the other."""
        return sum(self.by_phase_s(weights).values())
