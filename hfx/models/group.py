"""What a decoder asks of the ranks that compute it together, whatever library moves the numbers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch


class Group(Protocol):
    """All ranks of one decoder. Every rank makes the same calls in the same order."""

    def add_up(self, x: torch.Tensor) -> None:
        """Put the sum of all ranks' `x`, contiguous, in its place: the same bits on all of them.

        Raises:
            RuntimeError: a rank has gone, or did not come in time.
        """

    def gather(self, x: torch.Tensor) -> Sequence[torch.Tensor]:
        """Every rank's `x`, contiguous and alike, in the order of ranks; at rank 0 only.

        Raises:
            RuntimeError: as `add_up`.
        """


@dataclass(frozen=True, slots=True)
class Membership:
    """One rank of a decoder's. `join` makes their group, called once the weights are loaded."""

    rank: int = 0
    ranks: int = 1
    join: Callable[[torch.device], Group] | None = None


ALONE = Membership()
