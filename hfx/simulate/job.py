"""What is simulated of a request: how many tokens, never which; and what became of it.

Seconds, tokens. A hash id stands for `HASH_TOKENS` tokens of a prompt; equal ids, equal tokens.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import inf
from typing import cast

from hfx.request import FinishReason, Objective, Request, Sampling

HASH_TOKENS = 512
OPEN_END = Sampling(max_tokens=1 << 14)  # outputs end by themselves, and no policy knows when


def unknown_tokens(count: int) -> tuple[int, ...]:
    """A prompt of which only the length is known: as long, and as small in memory as a range."""
    return cast("tuple[int, ...]", range(count))


@dataclass(frozen=True, slots=True)
class Job:
    """A request, and the length that its output will have, which no policy may know.

    Raises:
        ValueError: the output is shorter than a token.
    """

    request: Request
    output_tokens: int
    hash_ids: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if self.output_tokens < 1:
            raise ValueError(
                f"request {self.request.id} has {self.output_tokens} output tokens: at least 1"
            )

    @classmethod
    def of(
        cls,
        id: str,
        arrival_s: float,
        prompt_tokens: int,
        output_tokens: int,
        objective: Objective,
        hash_ids: tuple[int, ...] = (),
    ) -> Job:
        """A job of these lengths."""
        request = Request(
            id=id,
            prompt_token_ids=unknown_tokens(prompt_tokens),
            sampling=OPEN_END,
            objective=objective,
            arrival_s=arrival_s,
        )
        return cls(request, output_tokens, hash_ids)

    def hinted(self, factor: float = 1.0) -> Job:
        """The same with its true length, times a factor, as the client's hint."""
        hint = max(1, round(self.output_tokens * factor))
        return replace(self, request=replace(self.request, expected_output_tokens=hint))


@dataclass(slots=True, eq=False)
class Fate:
    """What became of a job. `first_s` and `last_s` are when its first and its last token came.

    `is_on_time` says whether every token so far came when it was due by the cumulative rule.
    `replica` is where it was served last. `token_s` is kept only where it was asked for.
    """

    job: Job
    first_s: float | None = None
    last_s: float | None = None
    output_tokens: int = 0
    is_on_time: bool = True
    was_relegated: bool = False
    was_refused: bool = False
    preemptions: int = 0
    replica: int = -1
    reason: FinishReason | None = None
    token_s: list[float] | None = None

    @property
    def is_whole(self) -> bool:
        """Whether it got all of its tokens."""
        return self.output_tokens == self.job.output_tokens

    @property
    def ttft_s(self) -> float:
        """Arrival to first token; infinite where none came."""
        return inf if self.first_s is None else self.first_s - self.job.request.arrival_s

    @property
    def tpot_s(self) -> float:
        """Mean time per token after the first; 0 where there is one token only."""
        if self.first_s is None or self.last_s is None or self.output_tokens < 2:
            return 0.0
        return (self.last_s - self.first_s) / (self.output_tokens - 1)

    @property
    def meets(self) -> bool:
        """Whether every target was met, the time per token as a mean."""
        if not self.is_whole or self.last_s is None:
            return False
        request = self.job.request
        latency_s = self.last_s - request.arrival_s
        return request.objective.is_met(self.ttft_s, self.tpot_s, latency_s)

    @property
    def meets_every_token(self) -> bool:
        """Whether every token came by its own due time."""
        return self.is_whole and self.is_on_time
