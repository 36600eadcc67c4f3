"""What became of one request: its times as the client saw them, its counts as the server gave them.

Times are seconds; `start_s`, `end_s` and `scheduled_s` on `time.perf_counter`, the others from
`start_s`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Any

REFUSALS = (429, 503)  # "not now": too many requests, overloaded


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """Without `success` the times mean nothing, `error` says why.

    `scheduled_s` is when it should have been sent, `start_s` when it was. Token counts are the
    server's; None where it reported none. `status` is HTTP's, None where no answer came.
    `metrics` is what a server tells beside its answer (hfx: predictions and the cause of a miss).
    """

    success: bool
    start_s: float
    end_s: float
    scheduled_s: float
    error: str = ""
    status: int | None = None
    ttft_s: float = 0.0
    latency_s: float = 0.0
    itls_s: tuple[float, ...] = ()
    prompt_tokens: int | None = None
    output_tokens: int | None = None
    text: str = ""
    metrics: Mapping[str, Any] = field(default_factory=dict)

    @property
    def was_refused(self) -> bool:
        """Whether the server declined it for want of room, rather than failed at it."""
        return not self.success and self.status in REFUSALS


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


def token_times_s(outcome: Outcome) -> list[float]:
    """When each output token was there, from the start.

    Where a server puts several tokens into one chunk, the chunks are taken to hold equally many
    and a token is there when its chunk is.
    """
    chunks_s = list(accumulate(outcome.itls_s, initial=outcome.ttft_s))
    tokens = output_tokens(outcome)
    return [chunks_s[-(-n * len(chunks_s) // tokens) - 1] for n in range(1, tokens + 1)]
