"""The arithmetic of a run: vLLM's result keys, what the client itself added, saturation.

Times are seconds inside, milliseconds where a key ends in `_ms`. Pure: no clock, no sockets.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from .outcome import Outcome, output_tokens, tpot_s

METRICS = ("ttft", "tpot", "itl", "e2el")
KEEPS_UP = 0.95  # of the arrivals: fewer completions than that and the queue grows


def summarize(
    outcomes: Sequence[Outcome],
    duration_s: float,
    *,
    aimed_tokens: Sequence[int | None] | None = None,
    metrics: Sequence[str] = METRICS,
    percentiles: Sequence[float] = (99.0,),
) -> dict[str, Any]:
    """vLLM's result keys, the lists of `--save-detailed` included.

    `aimed_tokens` is what each prompt was meant to hold: it stands in where the server reported
    nothing, and its sum is `aimed_input_tokens`, to be compared with `total_input_tokens`.
    Failed requests are in no figure but `failed`; `attainment` counts them as missed.
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
    return {
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


def client_lag(outcomes: Sequence[Outcome], loop_lags_s: Sequence[float]) -> dict[str, float]:
    """How late this client itself was: in sending what was due, and in looking at its sockets."""
    late_ms = np.asarray([o.start_s - o.scheduled_s for o in outcomes] or [0.0]) * 1e3
    loop_ms = np.asarray(loop_lags_s or [0.0]) * 1e3
    return {
        "client_send_lag_p50_ms": float(np.median(late_ms)),
        "client_send_lag_p99_ms": float(np.percentile(late_ms, 99)),
        "client_loop_lag_p50_ms": float(np.median(loop_ms)),
        "client_loop_lag_p99_ms": float(np.percentile(loop_ms, 99)),
    }


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
