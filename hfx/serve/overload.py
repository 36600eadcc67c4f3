"""What a client is told of a promise that can't be kept, or was not: 429 and 504. Seconds inside,
milliseconds outside."""

from math import ceil, inf

from hfx.engine.delta import Delta
from hfx.engine.errors import EngineFull
from hfx.request import Refused

from .errors import ApiError
from .outcome import measured
from .promises import Promise
from .tiers import TARGETS

UNPRICED_RETRY_S = 1.0  # without prices nobody knows how soon there is room


def overloaded(error: EngineFull) -> ApiError:
    """A 429 for a full queue; Retry-After is when the work in it leaves room again."""
    retry_s = UNPRICED_RETRY_S if error.retry_after_s is None else error.retry_after_s
    return ApiError(
        429,
        str(error),
        code="queue_full",
        kind="overloaded",
        retry_after_s=retry_s,
        details={"retry_after_ms": _ms(retry_s)},
    )


def infeasible(refused: Refused, promise: Promise) -> ApiError:
    """A 429 for a promise that can't be kept, with what could be promised now.

    Where coming back won't help, it says so in the header that OpenAI's clients obey.
    """
    feasible = {
        name.removesuffix("_s") + "_ms": _ms(best_s)
        for name, best_s in refused.feasible.items()
        if best_s < inf
    }
    helps = refused.retry_after_s < inf
    retry_ms = _ms(refused.retry_after_s) if helps else None
    return ApiError(
        429,
        refused.reason,
        param=_missed(refused, promise),
        code="slo_infeasible",
        kind="slo_infeasible",
        retry_after_s=refused.retry_after_s if helps else None,
        headers=None if helps else {"x-should-retry": "false"},
        details={"feasible": feasible, "retry_after_ms": retry_ms},
    )


def expired(promise: Promise, end: Delta) -> ApiError:
    """A 504 for a request that its hard deadline has ended."""
    deadline_s = promise.objective.deadline_s
    assert deadline_s is not None, "only what has a deadline expires"
    return ApiError(
        504,
        f"the request was not done {deadline_s * 1000:g} ms after it had come, its deadline; "
        f"{end.output_tokens} tokens had been generated",
        param=promise.named["deadline"],
        code="deadline_exceeded",
        headers={"x-should-retry": "false"},  # it would be as late again
        details={"metrics": measured(end)},
    )


def _missed(refused: Refused, promise: Promise) -> str | None:
    """The promised target that can't be kept, by the name that the client knows."""
    promised = [name for name in TARGETS if name in promise.named]
    for name in promised:
        if refused.feasible.get(f"{name}_s", 0.0) > getattr(promise.objective, f"{name}_s"):
            return promise.named[name]
    return promise.named[promised[0]] if promised else None


def _ms(seconds: float) -> float:
    """Rounded up: what could be promised, and when to come back."""
    return ceil(seconds * 1e6) / 1000
