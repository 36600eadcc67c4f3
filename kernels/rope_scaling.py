"""How a model stretches its context, as data; `rope` makes tables of it. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

RopeKind = Literal["default", "linear", "dynamic", "llama3", "yarn"]
KINDS: tuple[RopeKind, ...] = ("default", "linear", "dynamic", "llama3", "yarn")


@dataclass(frozen=True, slots=True, kw_only=True)
class RopeScaling:
    """How a model stretches its context; names follow `rope_parameters` of Hugging Face configs.

    `original_max_positions` is the trained context ("dynamic", "llama3" and "yarn" need it). The
    frequency factors belong to "llama3", everything from `beta_fast` on to "yarn".

    Raises:
        ValueError: the kind is unknown, or a value it needs is missing or out of range.
    """

    kind: RopeKind
    factor: float = 1.0
    original_max_positions: int = 0
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    attention_factor: float | None = None
    mscale: float | None = None
    mscale_all_dim: float | None = None
    truncate: bool = True

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"rope kind is {self.kind!r}: it must be one of {', '.join(KINDS)}")
        if not self.factor > 0:
            raise ValueError(f"rope factor is {self.factor}: it must be greater than 0")
        if self.kind in ("dynamic", "llama3", "yarn") and self.original_max_positions < 1:
            raise ValueError(
                f"rope kind {self.kind!r} needs original_max_positions, the context length that "
                f"the model was trained for; it is {self.original_max_positions}"
            )
        if self.kind == "llama3" and not self.high_freq_factor > self.low_freq_factor:
            raise ValueError(
                f"high_freq_factor ({self.high_freq_factor}) must exceed low_freq_factor "
                f"({self.low_freq_factor})"
            )
