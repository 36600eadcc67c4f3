"""What work costs in seconds: the one currency that scheduler, admission and simulator share.

This module fixes the types. A `CostModel` prices a step from its `Mix`; planning asks for the
inverse: how many prompt tokens fit into a slack.
"""

from dataclasses import dataclass
from typing import Protocol

from hfx.request import Mix

__all__ = ["CostModel", "Estimate", "Mix"]


@dataclass(frozen=True, slots=True)
class Estimate:
    """A predicted time: its mean, and the bound that planning trusts, both in seconds.

    `extrapolated` says that the question lies outside what was measured.

    Raises:
        ValueError: the bound is below the mean, or the mean is negative.
    """

    mean_s: float
    upper_s: float
    extrapolated: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.mean_s <= self.upper_s:
            raise ValueError(
                f"an estimate needs 0 <= mean_s <= upper_s, not {self.mean_s} and {self.upper_s}"
            )


class CostModel(Protocol):
    """Prices of one replica's steps. Implementations are pure: no clock, no device, no torch."""

    def step_s(self, mix: Mix) -> Estimate:
        """How long a step that does `mix` takes."""
        ...

    def prefill_tokens_within(self, slack_s: float, mix: Mix, history_tokens: int) -> int:
        """The most prompt tokens of one sequence, behind `history_tokens` cached ones, that may
        join `mix` so that the step's upper bound stays within `slack_s`; 0 where none fits."""
        ...
