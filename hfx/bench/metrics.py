"""The arithmetic of a run: vLLM's result keys, attainment with its interval, saturation.

Times are seconds inside, milliseconds where a key ends in `_ms`. Pure: no clock, no sockets.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from .client import Outcome

METRICS = ("ttft", "tpot", "itl", "e2el")
GOODPUT_METRICS = ("ttft", "tpot", "e2el")
WILSON_Z = 1.959963984540054  # 95 %, two-sided
KEEPS_UP = 0.95  # of the arrivals: fewer completions than that and the queue grows


@dataclass(frozen=True, slots=True)
class Share:
    """How many of how many, with Wilson's 95 % interval."""

    hits: int
    total: int

    @property
    def value(self) -> float:
        return self.hits / self.total if self.total else 0.0

    @property
    def interval(self) -> tuple[float, float]:
        """(0, 1) where nothing was tried; none and all are exactly 0 and 1."""
        if not self.total:
            return 0.0, 1.0
        z2 = WILSON_Z**2
        scale = 1 + z2 / self.total
        centre = (self.value + z2 / (2 * self.total)) / scale
        spread = self.value * (1 - self.value) / self.total + z2 / (4 * self.total**2)
        half = WILSON_Z * math.sqrt(spread) / scale
        low = centre - half if self.hits else 0.0
        return low, (centre + half if self.hits < self.total else 1.0)


def output_tokens(outcome: Outcome) -> int:
    """What the server reported, or else the number of chunks that carried output."""
    if not outcome.success:
        return 0
    if outcome.output_tokens is not None:
        return outcome.output_tokens
    return 1 + len(outcome.itls_s)


def tpot_s(outcome: Outcome) -> float:
    """Mean time per token after the first; 0 for a reply of one token, as vLLM counts it."""
    later = output_tokens(outcome) - 1
    return (outcome.latency_s - outcome.ttft_s) / later if later > 0 else 0.0


def summarize(
    outcomes: Sequence[Outcome],
    duration_s: float,
    *,
    aimed_tokens: Sequence[int | None] | None = None,
    goodput_ms: Mapping[str, float] | None = None,
    metrics: Sequence[str] = METRICS,
    percentiles: Sequence[float] = (99.0,),
) -> dict[str, Any]:
    """vLLM's result keys, the lists of `--save-detailed` included, and SGLang's attainment keys.

    `aimed_tokens` is what each prompt was meant to hold: it stands in where the server reported
    nothing, and its sum is `aimed_input_tokens`, to be compared with `total_input_tokens`.
    Failed requests count as missed in goodput and attainment and nowhere else.
    """
    done = [outcome for outcome in outcomes if outcome.success]
    aims = aimed_tokens or [None] * len(outcomes)
    inputs = [
        outcome.prompt_tokens if outcome.prompt_tokens is not None else (aim or 0)
        for outcome, aim in zip(outcomes, aims, strict=True)
    ]
    counted = [i for i, outcome in enumerate(outcomes) if outcome.success]
    total_input = sum(inputs[i] for i in counted)
    total_output = sum(output_tokens(outcome) for outcome in done)
    per_s = 1.0 / duration_s if duration_s > 0 else 0.0
    result: dict[str, Any] = {
        "duration": duration_s,
        "completed": len(done),
        "failed": len(outcomes) - len(done),
        "total_input_tokens": total_input,
        "aimed_input_tokens": sum(aims[i] or inputs[i] for i in counted),
        "total_output_tokens": total_output,
        "request_throughput": len(done) * per_s,
        "request_goodput": None,
        "output_throughput": total_output * per_s,
        "total_token_throughput": (total_input + total_output) * per_s,
        **peaks(done),
        **latencies(done, metrics, percentiles),
        "input_lens": inputs,
        "output_lens": [output_tokens(outcome) for outcome in outcomes],
        "ttfts": [outcome.ttft_s for outcome in outcomes],
        "itls": [list(outcome.itls_s) for outcome in outcomes],
        "start_times": [outcome.start_s for outcome in outcomes],
        "generated_texts": [outcome.text for outcome in outcomes],
        "errors": [outcome.error for outcome in outcomes],
    }
    if goodput_ms:
        result |= attainment(outcomes, duration_s, goodput_ms)
    return result


def latencies(
    done: Sequence[Outcome], metrics: Sequence[str], percentiles: Sequence[float]
) -> dict[str, float]:
    """mean, median, std and percentiles in milliseconds; 0 where no request yields a value."""
    samples_s = {
        "ttft": [outcome.ttft_s for outcome in done],
        "tpot": [tpot_s(outcome) for outcome in done if output_tokens(outcome) > 1],
        "itl": [itl for outcome in done for itl in outcome.itls_s],
        "e2el": [outcome.latency_s for outcome in done],
    }
    result = {}
    for name in metrics:
        ms = np.asarray(samples_s[name] or [0.0]) * 1e3
        result[f"mean_{name}_ms"] = float(ms.mean())
        result[f"median_{name}_ms"] = float(np.median(ms))
        result[f"std_{name}_ms"] = float(ms.std())
        for p in percentiles:
            result[f"p{p:g}_{name}_ms"] = float(np.percentile(ms, p))
    return result


def peaks(done: Sequence[Outcome]) -> dict[str, float]:
    """The busiest second of the run, in chunks with output and in requests under way."""
    if not done:
        return {"max_output_tokens_per_s": 0.0, "max_concurrent_requests": 0}
    zero_s = min(outcome.start_s for outcome in done)
    seconds = int(max(outcome.start_s + outcome.latency_s for outcome in done) - zero_s) + 1
    tokens, requests = np.zeros(seconds), np.zeros(seconds, dtype=int)
    for outcome in done:
        first_s = outcome.start_s - zero_s + outcome.ttft_s
        times_s = first_s + np.concatenate(([0.0], np.cumsum(outcome.itls_s)))
        np.add.at(tokens, np.minimum(times_s.astype(int), seconds - 1), 1)
        start_s = outcome.start_s - zero_s
        requests[int(start_s) : int(start_s + outcome.latency_s) + 1] += 1
    return {
        "max_output_tokens_per_s": float(tokens.max()),
        "max_concurrent_requests": int(requests.max()),
    }


def attainment(
    outcomes: Sequence[Outcome], duration_s: float, goodput_ms: Mapping[str, float]
) -> dict[str, Any]:
    """Goodput in requests/s, and the share of all requests that kept every target, or each one."""
    met = {
        name: [outcome.success and _value_s(outcome, name) * 1e3 <= limit for outcome in outcomes]
        for name, limit in goodput_ms.items()
    }
    joint = Share(sum(all(row) for row in zip(*met.values(), strict=True)), len(outcomes))
    low, high = joint.interval
    return {
        "request_goodput": joint.hits / duration_s if duration_s > 0 else 0.0,
        "slo_attainment": joint.value,
        "slo_attainment_low": low,
        "slo_attainment_high": high,
        "slo_attainment_by_metric": {
            name: Share(sum(row), len(row)).value for name, row in met.items()
        },
    }


def _value_s(outcome: Outcome, name: str) -> float:
    if name == "ttft":
        return outcome.ttft_s
    return tpot_s(outcome) if name == "tpot" else outcome.latency_s


def saturation(outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """Whether an open-loop run asked for more than the server (or this client) could do.

    Compares, over the second half of the arrivals, when a steady server is warm, requests that
    ended with requests that were due: it is saturated where fewer than 95 % ended and the backlog
    grew by more than twice its chance variation. Starting late by more than a tenth of the
    median latency also counts: then the client, or its concurrency limit, held the load back.
    """
    due_s = sorted(outcome.scheduled_s for outcome in outcomes)
    if len(due_s) < 2:
        return {"saturated": False, "saturation_reason": ""}
    middle_s, last_s = due_s[len(due_s) // 2], due_s[-1]
    arrived = sum(middle_s < due <= last_s for due in due_s)
    ended = sum(middle_s < outcome.end_s <= last_s for outcome in outcomes)
    backlog = sum(o.scheduled_s <= middle_s < o.end_s for o in outcomes)
    reasons = []
    growth = arrived - ended
    if ended < KEEPS_UP * arrived and growth > 2 * math.sqrt(2 * backlog + 1):
        reasons.append(
            f"{ended} requests ended while {arrived} arrived in the second half of the run"
        )
    lag_s = float(np.median([outcome.start_s - outcome.scheduled_s for outcome in outcomes]))
    latency_s = float(np.median([outcome.end_s - outcome.start_s for outcome in outcomes]))
    if lag_s > 0.1 * latency_s:
        reasons.append(f"requests started {lag_s * 1e3:.0f} ms late in the median")
    return {"saturated": bool(reasons), "saturation_reason": "; ".join(reasons)}
