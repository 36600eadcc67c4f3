"""Which promises were kept: targets per request, both rules, shares with their intervals.

Pure: no clock, no sockets. Seconds inside, milliseconds where a key ends in `_ms`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from .outcome import Outcome, output_tokens, token_times_s, tpot_s

WILSON_Z = 1.959963984540054  # 95 %, two-sided
GOODPUT_METRICS = ("ttft", "tpot", "e2el")


@dataclass(frozen=True, slots=True)
class Share:
    """How many of how many, with Wilson's interval."""

    hits: int
    total: int

    @property
    def value(self) -> float:
        return self.hits / self.total if self.total else 0.0

    @property
    def interval(self) -> tuple[float, float]:
        """The 95 % interval."""
        return self.interval_at(WILSON_Z)

    def interval_at(self, z: float) -> tuple[float, float]:
        """(0, 1) where nothing was tried; none and all are exactly 0 and 1."""
        if not self.total:
            return 0.0, 1.0
        z2 = z**2
        scale = 1 + z2 / self.total
        centre = (self.value + z2 / (2 * self.total)) / scale
        spread = self.value * (1 - self.value) / self.total + z2 / (4 * self.total**2)
        half = z * math.sqrt(spread) / scale
        low = centre - half if self.hits else 0.0
        return low, (centre + half if self.hits < self.total else 1.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Targets:
    """What one request was promised; None means that nothing was.

    Raises:
        ValueError: a target is not above 0.
    """

    ttft_s: float | None = None
    tpot_s: float | None = None
    e2el_s: float | None = None

    def __post_init__(self) -> None:
        for name in ("ttft_s", "tpot_s", "e2el_s"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise ValueError(f"{name} is {value}: a target must be above 0")

    @classmethod
    def of_ms(cls, limits_ms: Mapping[str, float]) -> Targets:
        """Targets of `{"ttft": 200, "tpot": 50, "e2el": 2000}`, any of them left out."""
        return cls(**{f"{name}_s": limit / 1e3 for name, limit in limits_ms.items()})

    @property
    def slo(self) -> dict[str, float]:
        """As the body field `slo` has them, in milliseconds."""
        names = {"ttft_ms": self.ttft_s, "tpot_ms": self.tpot_s, "deadline_ms": self.e2el_s}
        return {name: value * 1e3 for name, value in names.items() if value is not None}

    def met(self, outcome: Outcome) -> dict[str, bool]:
        """By target that was given, whether it was kept; TPOT as a mean. A failure kept none."""
        took_s = {"ttft": outcome.ttft_s, "tpot": tpot_s(outcome), "e2el": outcome.latency_s}
        limits_s = {"ttft": self.ttft_s, "tpot": self.tpot_s, "e2el": self.e2el_s}
        return {
            name: outcome.success and took_s[name] <= limit
            for name, limit in limits_s.items()
            if limit is not None
        }

    def are_kept(self, outcome: Outcome) -> bool:
        """Whether it succeeded and every target was kept, TPOT as a mean."""
        return outcome.success and all(self.met(outcome).values())

    def are_kept_by_every_token(self, outcome: Outcome) -> bool:
        """The cumulative rule: token n is due at start + TTFT + (n - 1) TPOT, all of them kept.

        Without a TTFT target the first token's own time takes its place.
        """
        if not outcome.success or not all(
            kept for name, kept in self.met(outcome).items() if name != "tpot"
        ):
            return False
        if self.tpot_s is None:
            return True
        first_s = outcome.ttft_s if self.ttft_s is None else self.ttft_s
        return all(
            time_s <= first_s + n * self.tpot_s + 1e-9
            for n, time_s in enumerate(token_times_s(outcome))
        )


NO_TARGETS = Targets()


def attainment(
    outcomes: Sequence[Outcome], targets: Sequence[Targets], duration_s: float
) -> dict[str, Any]:
    """Goodput in requests/s and the shares of all requests that kept their promises.

    Every request counts: one that failed or was refused missed. `slo_attainment` takes TPOT as a
    mean, `slo_attainment_cumulative` asks every token to be on time.
    """
    kept = [t.are_kept(o) for o, t in zip(outcomes, targets, strict=True)]
    on_time = [t.are_kept_by_every_token(o) for o, t in zip(outcomes, targets, strict=True)]
    refused = sum(outcome.was_refused for outcome in outcomes)
    return {
        "request_goodput": sum(kept) / duration_s if duration_s > 0 else 0.0,
        **_share("slo_attainment", kept),
        **_share("slo_attainment_cumulative", on_time),
        "slo_attainment_by_metric": _by_metric(outcomes, targets),
        "refused": refused,
        "refusal_rate": refused / len(outcomes) if outcomes else 0.0,
    }


def _share(name: str, hits: Sequence[bool]) -> dict[str, float]:
    share = Share(sum(hits), len(hits))
    low, high = share.interval
    return {name: share.value, f"{name}_low": low, f"{name}_high": high}


def _by_metric(outcomes: Sequence[Outcome], targets: Sequence[Targets]) -> dict[str, float]:
    met: dict[str, list[bool]] = {}
    for outcome, target in zip(outcomes, targets, strict=True):
        for name, kept in target.met(outcome).items():
            met.setdefault(name, []).append(kept)
    return {name: Share(sum(row), len(row)).value for name, row in met.items()}


def by_tier(
    outcomes: Sequence[Outcome],
    targets: Sequence[Targets],
    tiers: Sequence[str],
    duration_s: float,
) -> dict[str, dict[str, Any]]:
    """`attainment` of each tier, with how many requests it had and its latencies."""
    found = {}
    for tier in dict.fromkeys(tiers):
        chosen = [i for i, name in enumerate(tiers) if name == tier]
        mine = [outcomes[i] for i in chosen]
        found[tier] = {
            "requests": len(mine),
            "completed": sum(outcome.success for outcome in mine),
            **attainment(mine, [targets[i] for i in chosen], duration_s),
            **_quantiles([o for o in mine if o.success]),
        }
    return found


def _quantiles(done: Sequence[Outcome]) -> dict[str, float]:
    samples_s = {
        "ttft": [outcome.ttft_s for outcome in done],
        "tpot": [tpot_s(outcome) for outcome in done if output_tokens(outcome) > 1],
    }
    return {
        f"p{p}_{name}_ms": float(np.percentile(values, p)) * 1e3
        for name, values in samples_s.items()
        if values
        for p in (50, 90, 99)
    }
