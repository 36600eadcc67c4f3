"""The `metrics` object of an answer: what it took, what was predicted and promised, and why it
was missed. Milliseconds."""

from typing import Any

from hfx.cost import Estimate
from hfx.engine.delta import Delta
from hfx.engine.verdict import CAUSES, TARGETS, Judged, actual_s, predicted, verdict


def measured(end: Delta) -> dict[str, Any]:
    """The object for a request that has ended. The first five names and meanings are vLLM's."""
    times, account = end.times, end.account
    assert account is not None
    decode_s = _between(times.first_token_s, times.last_token_s)
    return {
        "time_to_first_token_ms": _ms(actual_s("ttft", end)),
        "generation_time_ms": _ms(decode_s),
        "queue_time_ms": _ms(_between(times.arrival_s, times.scheduled_s)),
        "mean_itl_ms": _ms(actual_s("tpot", end)),
        "tokens_per_second": _rate(end.output_tokens - 1, decode_s),
        "total_time_ms": _ms(actual_s("deadline", end)),
        "preemptions": end.preemptions,
        "time_ms": {
            cause: _ms(sum(getattr(part, f"{cause}_s") for part in (account.first, account.later)))
            for cause in CAUSES
        },
        "predicted": {f"{name}_ms": estimated(predicted(name, account)) for name in TARGETS},
        "slo": _promise(end),
    }


def worst(ends: list[Delta]) -> Delta:
    """Of an answer's choices the one to tell of: the first that missed, else the last to end."""
    for end in ends:
        judged = verdict(end)
        if judged is not None and not judged.is_met:
            return end
    return max(ends, key=lambda end: end.times.last_token_s or 0.0)


def estimated(estimate: Estimate | None) -> dict[str, Any] | None:
    """A prediction: its mean and the bound that 19 of 20 are meant to stay below."""
    if estimate is None:
        return None
    return {"mean": _ms(estimate.mean_s), "upper": _ms(estimate.upper_s)}


def _promise(end: Delta) -> dict[str, Any] | None:
    judged = verdict(end)
    if judged is None:
        return None
    assert end.account is not None
    return {
        "tier": end.account.objective.tier,
        "met": judged.is_met,
        "met_cumulative": judged.is_met_cumulatively,
        "missed_because": judged.cause,
        "relegated": end.account.was_relegated,
        "targets": {f"{name}_ms": _target(each) for name, each in judged.targets.items()},
    }


def _target(judged: Judged) -> dict[str, Any]:
    return {
        "target": _ms(judged.target_s),
        "predicted": estimated(judged.predicted),
        "actual": _ms(judged.actual_s),
        "met": judged.is_met,
        "missed_because": judged.cause,
    }


def _between(start_s: float | None, end_s: float | None) -> float | None:
    return None if start_s is None or end_s is None else end_s - start_s


def _rate(tokens: int, seconds: float | None) -> float | None:
    return round(tokens / seconds, 3) if seconds else None


def _ms(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds * 1000, 3)
