"""A cost model that its own errors keep true: a factor for each regime, and the bound's quantile.

Every step's time is compared with the uncorrected price of its mix. The mean's factor follows the
logarithm of that ratio with forgetting and bounded steps; the bound's factor rises or falls so that
the wanted share of steps stays below it, whatever the errors' distribution and however it drifts
(adaptive conformal inference, Gibbs and Candes 2021). Prices keep their form, so all that is
guaranteed of them - monotone, exactly invertible - holds for the corrected ones.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import exp, inf, log

from hfx.request import Mix

from .estimate import Estimate, Kind
from .link import Link
from .step import Factors, StepCost, marginal_s

MEMORY_STEPS = 40  # a changed mean is followed to 1 / e in that many steps
QUICK_STEPS = 12  # the same while the errors all have one sign: the device has changed
BOUND_RATE = 0.5  # of the spread: how far one miss moves the bound; a hit moves it 1/19 as far
FARTHEST = 3.0  # spreads: a step farther off counts as that far


@dataclass(frozen=True, slots=True)
class Accuracy:
    """How well a regime's recent steps were predicted, before each was seen.

    `mape` and `coverage` are means over about the last 200 steps; `factor` is what multiplies the
    profile's price now, `bound` what lies between mean and upper.
    """

    steps: int
    mape: float
    coverage: float
    factor: float
    bound: float


class _Track:
    """One regime's correction, in logarithms of actual over uncorrected time."""

    __slots__ = ("bound", "coverage", "mape", "mean", "quantile", "run", "spread", "steps")

    def __init__(self, upper_factor: float, quantile: float) -> None:
        self.mean = 0.0
        self.bound = log(upper_factor)
        self.spread = max(self.bound / 2, 0.01)
        self.quantile = quantile
        self.run = 0.0
        self.steps = 0
        self.mape = 0.0
        self.coverage = 0.0

    def see(self, ratio: float, covered: bool, error: float) -> None:
        """Learn from one step: its log ratio, whether the bound held, its relative error."""
        self.steps += 1
        share = max(1 / self.steps, 1 / 200)
        self.mape += share * (error - self.mape)
        self.coverage += share * (covered - self.coverage)
        off = ratio - self.mean
        near = max(-FARTHEST * self.spread, min(FARTHEST * self.spread, off))
        self.run += ((off > 0) - (off < 0) - self.run) / QUICK_STEPS
        steps = QUICK_STEPS if abs(self.run) > 0.7 else MEMORY_STEPS
        self.mean += near / min(self.steps + 4, steps)
        self.spread += (abs(near) - self.spread) / MEMORY_STEPS
        self.spread = max(self.spread, 1e-3)
        missed = 0.0 if covered else 1.0
        self.bound += BOUND_RATE * self.spread * (missed - (1 - self.quantile))
        self.bound = max(self.bound, 0.0)


class OnlineCost:
    """A `CostModel` that corrects another one by what steps really took.

    Not for several threads at once: whoever runs the steps also calls `observe`.
    """

    def __init__(self, model: StepCost, *, quantile: float = 0.95) -> None:
        """Starts at the model's own prices and bounds.

        Raises:
            ValueError: the quantile is not from 0.5 to below 1.
        """
        if not 0.5 <= quantile < 1:
            raise ValueError(f"quantile is {quantile}: it must be from 0.5 to below 1")
        self.model = model
        self._decode = _Track(model.decode.upper_factor, quantile)
        self._mixed = _Track(model.mixed.upper_factor, quantile)
        self._factors = model.factors

    @property
    def kv_bytes_per_token(self) -> int:
        """As the profile says."""
        return self.model.kv_bytes_per_token

    @property
    def accuracy(self) -> Mapping[str, Accuracy]:
        """By regime, `decode` and `mixed`; a regime that was not seen has 0 steps."""
        return {
            name: Accuracy(t.steps, t.mape, t.coverage, exp(t.mean), exp(t.bound))
            for name, t in (("decode", self._decode), ("mixed", self._mixed))
        }

    def observe(self, mix: Mix, seconds: float) -> Estimate:
        """Learn that a step of `mix` took `seconds`; returns what was predicted before.

        Raises:
            ValueError: the time is not positive and finite, or the step did nothing.
        """
        if not 0 < seconds < inf or not mix.tokens:
            raise ValueError(
                f"a step of {mix.tokens} tokens that took {seconds} s teaches nothing: "
                "report steps with tokens and the time they took"
            )
        expected = self.step_s(mix)
        decode_s, mixed_s = self.model.raw_s(mix)
        track = self._mixed if mix.prefill_tokens else self._decode
        raw_s = max(decode_s, mixed_s) if mix.prefill_tokens else decode_s
        covered = seconds <= expected.upper_s
        if raw_s > 0:
            error = abs(expected.mean_s / seconds - 1)
            track.see(log(seconds / raw_s), covered, error)
            decode, mixed = self._decode, self._mixed
            self._factors = Factors(
                exp(decode.mean),
                exp(decode.mean + decode.bound),
                exp(mixed.mean),
                exp(mixed.mean + mixed.bound),
            )
        return expected

    def step_s(self, mix: Mix) -> Estimate:
        """How long a step that does `mix` takes, by the corrected prices."""
        return self.model.priced(mix, self._factors)

    def prompt_s(self, tokens: int, history_tokens: int) -> float:
        """As `StepCost.prompt_s`, by the corrected prices."""
        return self.model.prompt_priced(tokens, history_tokens, self._factors)

    def prefill_tokens_within(
        self, slack_s: float, mix: Mix, history_tokens: int, *, upper: bool = True
    ) -> int:
        """As `StepCost.prefill_tokens_within`, by the corrected prices."""
        return self.model.tokens_within(slack_s, mix, history_tokens, self._factors, upper)

    def seconds_per_token(self, kind: Kind, context_tokens: int, mix: Mix) -> float:
        """As `StepCost.seconds_per_token`, by the corrected prices."""
        return marginal_s(self, kind, context_tokens, mix)

    def transfer_s(self, nbytes: float, link: Link | str) -> float:
        """As the profile says."""
        return self.model.transfer_s(nbytes, link)
