"""Was a promise kept, and if not, why: targets beside what was predicted and what came. Seconds.

A promise of several targets is kept if each of them is. TPOT is judged by two published rules: the
mean over the output, and cumulatively, where every token has a time by which it is due.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from hfx.cost import Estimate
from hfx.request import FinishReason

from .account import Account, Spent
from .delta import Delta, RequestTimes

Target = Literal["ttft", "tpot", "deadline"]
Cause = Literal["queue", "prompt", "decode", "interference", "preemption", "kv", "host"]
TARGETS: tuple[Target, ...] = ("ttft", "tpot", "deadline")
CAUSES: tuple[Cause, ...] = (
    *("queue", "prompt", "decode", "interference", "preemption", "kv", "host"),
)
_OWN: dict[Target, tuple[Cause, ...]] = {
    "ttft": ("prompt",),
    "tpot": ("decode",),
    "deadline": ("prompt", "decode"),
}
_AVOIDABLE: tuple[Cause, ...] = ("queue", "interference", "preemption", "kv", "host")


@dataclass(frozen=True, slots=True)
class Judged:
    """One target and what became of it. `actual_s` is None where it did not come to that."""

    target_s: float
    predicted: Estimate | None
    actual_s: float | None
    is_met: bool
    cause: Cause | None = None  # of a miss

    @property
    def slack_s(self) -> float | None:
        """How much earlier than promised; negative is late."""
        return None if self.actual_s is None else self.target_s - self.actual_s


@dataclass(frozen=True, slots=True)
class Verdict:
    """What became of a promise, by target, and by both rules as a whole.

    `cause` is that of the first target that was missed, or of a token that was late by the
    cumulative rule although its mean was kept.
    """

    targets: dict[Target, Judged]
    is_met: bool
    is_met_cumulatively: bool
    cause: Cause | None = None


def verdict(end: Delta) -> Verdict | None:
    """What became of the promise of a request that has ended; None where nothing was promised.

    A request that failed or expired has kept nothing but what it had kept by then. Whether an
    aborted one would have kept it, nobody knows: None, too.
    """
    account = end.account
    assert end.finish_reason is not None and account is not None
    if end.finish_reason is FinishReason.ABORT:
        return None
    judged = {
        target: _judge(target, target_s, predicted(target, account), end)
        for target in TARGETS
        if (target_s := getattr(account.objective, f"{target}_s")) is not None
    }
    if not judged:
        return None
    is_whole = end.finish_reason in (FinishReason.STOP, FinishReason.LENGTH)
    others_met = is_whole and all(each.is_met for name, each in judged.items() if name != "tpot")
    on_time = account.late_s is None or account.late_s <= 0
    cause = next((each.cause for each in judged.values() if each.cause), None)
    return Verdict(
        judged,
        others_met and ("tpot" not in judged or judged["tpot"].is_met),
        others_met and on_time,
        cause if on_time else cause or _largest(_AVOIDABLE, _parts("deadline", account)),
    )


def predicted(target: Target, account: Account) -> Estimate | None:
    """What was expected on arrival; None where there were no prices."""
    outlook = account.outlook
    if outlook is None:
        return None
    return {"ttft": outlook.ttft_s, "tpot": outlook.tpot_s, "deadline": outlook.finish_s}[target]


def actual_s(target: Target, end: Delta) -> float | None:
    """TTFT, mean TPOT or time to the last token; None where it did not come to that."""
    times = end.times
    if times.first_token_s is None or times.last_token_s is None:
        return None
    if target == "ttft":
        return times.first_token_s - times.arrival_s
    if target == "tpot":
        return _mean_gap_s(times, end.output_tokens)
    return times.last_token_s - times.arrival_s


def _mean_gap_s(times: RequestTimes, tokens: int) -> float | None:
    assert times.first_token_s is not None and times.last_token_s is not None
    return (times.last_token_s - times.first_token_s) / (tokens - 1) if tokens > 1 else None


def _judge(target: Target, target_s: float, predicted: Estimate | None, end: Delta) -> Judged:
    took_s = actual_s(target, end)
    if target == "deadline" and end.finish_reason is FinishReason.EXPIRED:
        is_met = False
    elif took_s is None:
        is_met = target == "tpot" and end.output_tokens == 1  # one token: there was no gap
    else:
        is_met = took_s <= target_s
    cause = None if is_met else _cause(target, target_s, end)
    return Judged(target_s, predicted, took_s, is_met, cause)


def _cause(target: Target, target_s: float, end: Delta) -> Cause:
    """What to blame for a miss.

    The request's own work, where that alone takes longer than was promised; otherwise the largest
    of the parts without which it would have been quicker.
    """
    account = end.account
    assert account is not None
    parts = _parts(target, account)
    own = _OWN[target]
    allowed_s = target_s * (max(1, end.output_tokens - 1) if target == "tpot" else 1)
    if sum(map(parts, own)) > allowed_s or not any(map(parts, _AVOIDABLE)):
        return _largest(own, parts)
    return _largest(_AVOIDABLE, parts)


def _largest(causes: tuple[Cause, ...], parts: Callable[[Cause], float]) -> Cause:
    return max(causes, key=parts)


def _parts(target: Target, account: Account) -> Callable[[Cause], float]:
    first, later = account.first, account.later
    spans: tuple[Spent, ...] = {"ttft": (first,), "tpot": (later,)}.get(target, (first, later))
    if target == "tpot" and not later.total_s:  # it ended before there was a second token
        spans = (first,)
    return lambda cause: sum(getattr(span, f"{cause}_s") for span in spans)
