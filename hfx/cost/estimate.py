"""What a price is: a mean, a bound that plans trust, and whether the question was ever measured."""

from __future__ import annotations

from typing import Literal, NamedTuple, Protocol

from hfx.request import Mix

from .link import Link

Kind = Literal["prefill", "decode"]


class _Fields(NamedTuple):
    mean_s: float
    upper_s: float
    extrapolated: bool


class Estimate(_Fields):
    """A predicted time: its mean, and the bound that planning trusts, both in seconds.

    `extrapolated` says that the question lies outside what was measured. A tuple rather than a
    dataclass because one is made per question and a planner asks in a loop.

    Raises:
        ValueError: the bound is below the mean, or the mean is negative.
    """

    __slots__ = ()

    def __new__(cls, mean_s: float, upper_s: float, extrapolated: bool = False) -> Estimate:
        if not 0 <= mean_s <= upper_s:
            raise ValueError(
                f"an estimate needs 0 <= mean_s <= upper_s, not {mean_s} and {upper_s}"
            )
        return super().__new__(cls, mean_s, upper_s, extrapolated)


class CostModel(Protocol):
    """Prices of one replica's steps. Implementations are pure: no clock, no device, no torch."""

    @property
    def kv_bytes_per_token(self) -> int:
        """Bytes that one token's keys and values take on this replica, all layers together."""
        ...

    def step_s(self, mix: Mix) -> Estimate:
        """How long a step that does `mix` takes; nothing takes no time."""
        ...

    def prompt_s(self, tokens: int, history_tokens: int) -> float:
        """What computing that many prompt tokens, behind cached ones, adds to steps that run
        anyway, on average; nothing where there are none."""
        ...

    def prefill_tokens_within(
        self, slack_s: float, mix: Mix, history_tokens: int, *, upper: bool = True
    ) -> int:
        """The most prompt tokens of one sequence, behind `history_tokens` cached ones, that may
        join `mix` so that the step's upper bound (or its mean) stays within `slack_s`; 0 where
        none fits.

        It is the largest n for which `step_s(mix + Mix.one(n, history_tokens))` fits. A slack
        beyond every step gets `MOST_TOKENS`.
        """
        ...

    def seconds_per_token(self, kind: Kind, context_tokens: int, mix: Mix) -> float:
        """What one more token at that context adds to a step that does `mix` already.

        For a "decode" it is the step's growth by one sequence; for "prefill" a token's share of
        the growth by a chunk of `PRICED_CHUNK` tokens, so that a jump is shared fairly.
        """
        ...

    def transfer_s(self, nbytes: float, link: Link | str) -> float:
        """How long moving that many bytes takes over a link, or over a named one of the profile."""
        ...


MOST_TOKENS = 1 << 30  # the answer to "how many fit?" where there is no end
PRICED_CHUNK = 256  # tokens: a usual chunk, wide enough to level the steps of tiled kernels
