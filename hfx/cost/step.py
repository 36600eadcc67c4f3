"""The cost model of one device, model and degree of parallelism: two regimes and their inverse.

A step of decodes alone has its own prices, because a key-value token costs other kernels' time
there than beside prompt chunks. A mixed step is never priced below its decodes alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import inf
from typing import NamedTuple

from hfx.request import Mix

from .estimate import MOST_TOKENS, PRICED_CHUNK, CostModel, Estimate, Kind
from .link import Link, Startup
from .regime import Form, Regime

_unchecked = tuple.__new__  # the mean and the bound below are ordered by construction
REMEMBERED = 1 << 14  # prices of prompts: the same ones are asked for step after step


class Factors(NamedTuple):
    """What multiplies the raw prices of both regimes: to the mean, and to the bound plans trust."""

    decode_mean: float
    decode_upper: float
    mixed_mean: float
    mixed_upper: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Key:
    """What a profile was measured for. `version` is the engine's and its kernels'."""

    device: str
    model: str
    dtype: str
    tensor_parallel: int = 1
    version: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """The largest sums that were measured; questions beyond are extrapolated.

    Raises:
        ValueError: a limit is negative.
    """

    decodes: int = 0
    decode_context_tokens: int = 0
    prefill_tokens: int = 0
    prefill_context_tokens: int = 0
    attention_pairs: float = 0.0

    def __post_init__(self) -> None:
        for name in Limits.__slots__:
            if not getattr(self, name) >= 0:
                raise ValueError(f"measured {name} is {getattr(self, name)}: it must be at least 0")


@dataclass(frozen=True, slots=True, kw_only=True)
class Fit:
    """How well a regime's steps were predicted: error as a fraction of the time, and coverage.

    `coverage` is the share of steps within `upper_s`. The steps were not used for the fit they
    are judged by (cross-validation), nor, where many prompt lengths were measured, their lengths.
    """

    steps: int
    mape: float
    p50: float
    p90: float
    coverage: float


@dataclass(frozen=True, kw_only=True)
class StepCost:
    """Prices from fitted or derived coefficients; plain data, saved and loaded by `hfx.cost`.

    Raises:
        ValueError: the mixed regime gives prompt tokens away for nothing, or sizes are negative.
    """

    key: Key
    decode: Regime
    mixed: Regime
    measured: Limits = field(default_factory=Limits)
    kv_bytes_per_token: int = 0
    links: Mapping[str, Link] = field(default_factory=dict)
    startup: Startup | None = None
    source: str = ""
    report: Mapping[str, Fit] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.mixed.per_token_s > 0:
            raise ValueError(
                "mixed per_token_s is 0: no prompt would ever be too long; fit again with longer "
                "prompt chunks"
            )
        if self.kv_bytes_per_token < 0:
            raise ValueError(f"kv_bytes_per_token is {self.kv_bytes_per_token}: it is at least 0")
        limits = self.measured
        most = tuple(getattr(limits, name) for name in Limits.__slots__)
        object.__setattr__(self, "_most", most)
        object.__setattr__(self, "_decode_form", Form(self.decode))
        object.__setattr__(self, "_mixed_form", Form(self.mixed))
        object.__setattr__(self, "_first_s", self._mixed_form.mixed_s(Mix.one(1, 0)))
        object.__setattr__(self, "_prompts", {})
        object.__setattr__(self, "factors", self._own_factors())

    _most: tuple[float, ...] = field(init=False, repr=False, compare=False)
    _decode_form: Form = field(init=False, repr=False, compare=False)
    _mixed_form: Form = field(init=False, repr=False, compare=False)
    _first_s: float = field(init=False, repr=False, compare=False)
    _prompts: dict[tuple[int, int], float] = field(init=False, repr=False, compare=False)
    factors: Factors = field(init=False, repr=False, compare=False)

    def _own_factors(self) -> Factors:
        return Factors(1.0, self.decode.upper_factor, 1.0, self.mixed.upper_factor)

    def step_s(self, mix: Mix) -> Estimate:
        """How long a step that does `mix` takes; nothing takes no time."""
        return self.priced(mix, self.factors)

    def priced(self, mix: Mix, factors: Factors) -> Estimate:
        """`step_s` with other factors than the profile's own: what a correction needs."""
        decode_mean, decode_upper, mixed_mean, mixed_upper = factors
        decodes, context, _, tokens, history, pairs, squares = mix
        mean_s = upper_s = 0.0
        if decodes:
            raw_s = self._decode_form.decodes_s(decodes, context, squares)
            mean_s = raw_s * decode_mean
            upper_s = raw_s * decode_upper
        if tokens:
            raw_s = self._mixed_form.mixed_s(mix)
            mixed_s = raw_s * mixed_mean
            if mixed_s > mean_s:
                mean_s = mixed_s
            mixed_s = raw_s * mixed_upper
            if mixed_s > upper_s:
                upper_s = mixed_s
        b, k, p, h, a = self._most
        outside = decodes > b or context > k or tokens > p or history > h or pairs > a
        return _unchecked(Estimate, (mean_s, upper_s, outside))

    def prompt_s(self, tokens: int, history_tokens: int) -> float:
        """What computing that many prompt tokens adds to steps that run anyway, on average."""
        return self.prompt_priced(tokens, history_tokens, self.factors)

    def prompt_priced(self, tokens: int, history_tokens: int, factors: Factors) -> float:
        """`prompt_s` with other factors than the profile's own."""
        if tokens < 1:
            return 0.0
        asked = tokens, history_tokens
        whole_s = self._prompts.get(asked)
        if whole_s is None:
            if len(self._prompts) >= REMEMBERED:
                self._prompts.clear()
            # one token behind others would be a decode, at a decode's price
            whole_s = self._mixed_form.mixed_s(Mix.one(max(tokens, 2), history_tokens))
            self._prompts[asked] = whole_s
        mean = factors.mixed_mean
        more_s = whole_s * mean - self._first_s * mean
        return more_s if more_s > 0 else 0.0

    def raw_s(self, mix: Mix) -> tuple[float, float]:
        """The prices that `priced` takes the larger of: the decodes alone, and a mixed step's."""
        context, squares = mix.decode_context_tokens, mix.decode_context_squares
        return (
            self._decode_form.decodes_s(mix.decodes, context, squares) if mix.decodes else 0.0,
            self._mixed_form.mixed_s(mix) if mix.prefill_tokens else 0.0,
        )

    def prefill_tokens_within(
        self, slack_s: float, mix: Mix, history_tokens: int, *, upper: bool = True
    ) -> int:
        """The largest n for which `mix + Mix.one(n, history_tokens)` stays within `slack_s`.

        By the upper bound, or by the mean where `upper` is false; 0 where not one token fits.

        Raises:
            ValueError: the slack is not a number, or the history is negative.
        """
        return self.tokens_within(slack_s, mix, history_tokens, self.factors, upper)

    def tokens_within(
        self, slack_s: float, mix: Mix, history_tokens: int, factors: Factors, upper: bool
    ) -> int:
        """`prefill_tokens_within` with other factors than the profile's own."""
        if not slack_s < inf or history_tokens < 0:
            if slack_s == inf and history_tokens >= 0:
                return MOST_TOKENS
            raise ValueError(
                f"slack_s is {slack_s}, history_tokens {history_tokens}: "
                "give a number of seconds and at least 0 tokens"
            )
        decode, mixed = (factors[1], factors[3]) if upper else (factors[0], factors[2])
        if mix.decodes:
            context, squares = mix.decode_context_tokens, mix.decode_context_squares
            alone_s = self._decode_form.decodes_s(mix.decodes, context, squares)
            if alone_s * decode > slack_s:
                return 0
        n = self._mixed_form.chunk_within(slack_s, mixed, mix, history_tokens)
        if n < 2 and history_tokens:  # one token behind others is a decode, at a decode's price
            estimate = self.priced(mix + Mix.one(1, history_tokens), factors)
            return int((estimate.upper_s if upper else estimate.mean_s) <= slack_s)
        return n

    def seconds_per_token(self, kind: Kind, context_tokens: int, mix: Mix) -> float:
        """What one more token at that context adds to a step that does `mix` already.

        Raises:
            ValueError: the kind is none of the two, or the context does not hold the token.
        """
        return marginal_s(self, kind, context_tokens, mix)

    def transfer_s(self, nbytes: float, link: Link | str) -> float:
        """How long moving that many bytes takes.

        Raises:
            ValueError: the profile has no link of that name, or the bytes are negative.
        """
        if isinstance(link, str):
            if link not in self.links:
                known = ", ".join(sorted(self.links)) or "none"
                raise ValueError(f"link {link!r} is not in the profile ({known}): pass a Link")
            link = self.links[link]
        return link.seconds(nbytes)


def marginal_s(model: CostModel, kind: Kind, context_tokens: int, mix: Mix) -> float:
    """`CostModel.seconds_per_token` in terms of the model's own `step_s`."""
    if kind not in ("prefill", "decode"):
        raise ValueError(f"kind is {kind!r}: it must be 'prefill' or 'decode'")
    least = 2 if kind == "decode" else 0
    if context_tokens < least:
        raise ValueError(f"context_tokens is {context_tokens}: a {kind} has at least {least}")
    if kind == "decode":
        more, tokens = Mix.one(1, context_tokens - 1), 1
    else:
        more, tokens = Mix.one(PRICED_CHUNK, context_tokens), PRICED_CHUNK
    return (model.step_s(mix + more).mean_s - model.step_s(mix).mean_s) / tokens
