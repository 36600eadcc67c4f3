"""The words of every layer: what a request is promised, what one step does, what the answer is.

Times are seconds (`_s`) on the clock of whoever owns the request, sizes are tokens (`_tokens`).
Nothing here imports torch, reads a clock, or touches the network.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Literal, NamedTuple


@dataclass(frozen=True, slots=True, kw_only=True)
class Objective:
    """What one request was promised; None means that nothing was.

    `ttft_s` bounds arrival to first token, `tpot_s` the time per later token, `deadline_s` arrival
    to last token. `weight` says how much a kept promise of this request counts beside others'.

    `on_miss` says what becomes of a promise that can't be kept: "relegate" serves the request
    later, from spare capacity; "refuse" refuses it on arrival, and makes `deadline_s` hard: past
    it the request ends as `FinishReason.EXPIRED`. With `may_relegate` false a request keeps its
    place although its promise is lost.

    Raises:
        ValueError: a target or the weight is zero or negative.
    """

    ttft_s: float | None = None
    tpot_s: float | None = None
    deadline_s: float | None = None
    tier: str = "default"
    weight: float = 1.0
    on_miss: Literal["relegate", "refuse"] = "relegate"
    may_relegate: bool = True

    def __post_init__(self) -> None:
        if self.on_miss not in ("relegate", "refuse"):
            raise ValueError(f"on_miss is {self.on_miss!r}: it must be 'relegate' or 'refuse'")
        for name in ("ttft_s", "tpot_s", "deadline_s", "weight"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise ValueError(f"{name} is {value}: a promise must be greater than 0")

    def is_met(self, ttft_s: float, tpot_s: float, latency_s: float) -> bool:
        """Whether a whole output of these times kept every target, the time per token as a mean."""
        return (
            (self.ttft_s is None or ttft_s <= self.ttft_s)
            and (self.tpot_s is None or tpot_s <= self.tpot_s)
            and (self.deadline_s is None or latency_s <= self.deadline_s)
        )

    def token_due_s(self, arrival_s: float, token: int) -> float | None:
        """When output token `token` (1 is the first) is due by the cumulative rule.

        Token n is due at arrival + TTFT + (n - 1) TPOT; a target that was not given adds nothing,
        and None comes back where neither target nor deadline says anything.
        """
        due_s = None
        if self.ttft_s is not None or self.tpot_s is not None:
            due_s = arrival_s + (self.ttft_s or 0.0) + (token - 1) * (self.tpot_s or 0.0)
        if self.deadline_s is not None:
            last_s = arrival_s + self.deadline_s
            due_s = last_s if due_s is None else min(due_s, last_s)
        return due_s


GREEDY_TEMPERATURE = 1e-5  # below this, dividing logits by the temperature overflows: take the best


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    """How the next token is chosen and when the output ends.

    `temperature` 0 is greedy. `top_k` 0 and `top_p` 1 and `min_p` 0 keep every token. `logprobs` is
    how many alternatives to report per token (0: only the chosen one's; None: nothing).
    `stop` strings end the output before they are shown, `stop_token_ids` end it too.

    Raises:
        ValueError: a value lies outside its range; the message says which, and the range.
    """

    max_tokens: int = 16
    min_tokens: int = 0
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    repetition_penalty: float = 1.0
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    seed: int | None = None
    stop: tuple[str, ...] = ()
    stop_token_ids: tuple[int, ...] = ()
    include_stop_str_in_output: bool = False
    ignore_eos: bool = False
    skip_special_tokens: bool = True
    logprobs: int | None = None

    def __post_init__(self) -> None:
        def require(ok: bool, name: str, limits: str) -> None:
            if not ok:
                raise ValueError(f"{name} is {getattr(self, name)}: it must be {limits}")

        require(self.max_tokens >= 1, "max_tokens", "at least 1")
        require(
            0 <= self.min_tokens <= self.max_tokens,
            "min_tokens",
            f"0 to {self.max_tokens} (max_tokens)",
        )
        require(0.0 <= self.temperature <= 100.0, "temperature", "from 0 to 100")
        require(0.0 < self.top_p <= 1.0, "top_p", "greater than 0 and at most 1")
        require(self.top_k >= 0, "top_k", "0 (every token) or more")
        require(0.0 <= self.min_p <= 1.0, "min_p", "from 0 to 1")
        require(-2.0 <= self.presence_penalty <= 2.0, "presence_penalty", "from -2 to 2")
        require(-2.0 <= self.frequency_penalty <= 2.0, "frequency_penalty", "from -2 to 2")
        require(
            0.0 < self.repetition_penalty <= 100.0, "repetition_penalty", "above 0, at most 100"
        )
        require(self.logprobs is None or 0 <= self.logprobs <= 20, "logprobs", "from 0 to 20")
        require(all(self.stop), "stop", "strings of at least one character")

    @property
    def is_greedy(self) -> bool:
        """Whether the most likely token is always taken."""
        return self.temperature < GREEDY_TEMPERATURE or self.top_k == 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One prompt to continue. Immutable: what has become of it is the engine's to know.

    `priority` is in vLLM's sense: lower is earlier. `cache_salt` keeps its cached prefix apart from
    requests with another salt. `expected_output_tokens` is the client's hint, if it gave one.

    Raises:
        ValueError: the prompt is empty.
    """

    id: str
    prompt_token_ids: tuple[int, ...]
    sampling: Sampling = field(default_factory=Sampling)
    objective: Objective = field(default_factory=Objective)
    arrival_s: float = 0.0
    priority: int = 0
    cache_salt: str = ""
    expected_output_tokens: int | None = None

    def __post_init__(self) -> None:
        if not self.prompt_token_ids:
            raise ValueError(f"request {self.id} has an empty prompt: give at least one token")

    @property
    def prompt_tokens(self) -> int:
        return len(self.prompt_token_ids)


class FinishReason(StrEnum):
    """Why a request ended."""

    STOP = "stop"  # end-of-sequence token, stop token or stop string
    LENGTH = "length"  # max_tokens, or the model's context is full
    ABORT = "abort"  # the client went away or asked for it
    ERROR = "error"  # the step that computed it failed
    EXPIRED = "expired"  # its hard deadline passed


class _Sums(NamedTuple):
    decodes: int
    decode_context_tokens: int
    chunks: int
    prefill_tokens: int
    prefill_context_tokens: int
    attention_pairs: float
    decode_context_squares: int


_unchecked = tuple.__new__  # what is made from valid mixes by the rules below is valid


class Mix(_Sums):
    """What one step does, as sums that requests join and leave in O(1).

    For a sequence with n query tokens behind h cached ones, a decode is n = 1 with h > 0, anything
    else is a prompt chunk. `attention_pairs` is the sum over chunks of n (h + n / 2), the design's
    A, in tokens squared. `decode_context_squares` is the sum of squared decode contexts: its root
    lies near the longest context where one towers, which sums alone don't show; left out, equal
    contexts are assumed. A tuple rather than a dataclass because a planner makes many in a step.

    Raises:
        ValueError: a field is negative, not a number, or contradicts another one.
    """

    __slots__ = ()

    def __new__(
        cls,
        decodes: int = 0,
        decode_context_tokens: int = 0,
        chunks: int = 0,
        prefill_tokens: int = 0,
        prefill_context_tokens: int = 0,
        attention_pairs: float = 0.0,
        decode_context_squares: int = 0,
    ) -> Mix:
        context, squares = decode_context_tokens, decode_context_squares
        if context and not squares and decodes:
            squares = -(-context * context // decodes)
        mix = _unchecked(
            cls,
            (
                decodes,
                context,
                chunks,
                prefill_tokens,
                prefill_context_tokens,
                attention_pairs,
                squares,
            ),
        )
        if not (
            0 <= decodes <= context <= squares
            and (decodes or not squares)
            and 0 <= chunks <= prefill_tokens <= 2 * attention_pairs < math.inf
            and (chunks or not attention_pairs)
            and prefill_context_tokens >= 0
            and (chunks or not prefill_context_tokens)
        ):
            raise ValueError(_contradiction(mix))
        return mix

    @classmethod
    def of(cls, pairs: Iterable[tuple[int, int]]) -> Mix:
        """The mix of (query tokens, cached tokens) pairs: the pairs of the kernels' work list."""
        return sum((cls.one(*pair) for pair in pairs), start=cls())

    @classmethod
    def one(cls, query_tokens: int, history_tokens: int) -> Mix:
        """The share of a single sequence.

        Raises:
            ValueError: fewer than one query token, or a negative history.
        """
        if query_tokens < 1 or history_tokens < 0:
            raise ValueError(
                f"({query_tokens} query tokens, {history_tokens} cached) is no step of a sequence: "
                "at least 1 query token and 0 cached ones are needed"
            )
        if query_tokens == 1 and history_tokens > 0:
            context = history_tokens + 1
            return _unchecked(cls, (1, context, 0, 0, 0, 0.0, context * context))
        pairs = query_tokens * (history_tokens + query_tokens / 2)
        return _unchecked(cls, (0, 0, 1, query_tokens, history_tokens, pairs, 0))

    @property
    def tokens(self) -> int:
        """Rows of the step's matrix products."""
        return self.decodes + self.prefill_tokens

    def __add__(self, other: Mix) -> Mix:  # type: ignore[override]  # sums, not sequences
        b, k, c, p, h, a, q = self
        b2, k2, c2, p2, h2, a2, q2 = other
        return _unchecked(Mix, (b + b2, k + k2, c + c2, p + p2, h + h2, a + a2, q + q2))

    def __sub__(self, other: Mix) -> Mix:
        b, k, c, p, h, a, q = self
        b2, k2, c2, p2, h2, a2, q2 = other
        return Mix(b - b2, k - k2, c - c2, p - p2, h - h2, a - a2, q - q2)


def _contradiction(mix: Mix) -> str:
    """Which field of a refused mix is wrong, and what to do."""
    for name in Mix._fields:
        value = getattr(mix, name)
        if not 0 <= value < math.inf:
            return f"{name} is {value}: a mix counts work, so it must be finite and at least 0"
    context, squares = mix.decode_context_tokens, mix.decode_context_squares
    rules = {
        "decode_context_tokens": mix.decodes <= context and bool(mix.decodes) == bool(context),
        "decode_context_squares": context <= squares and bool(mix.decodes) == bool(squares),
        "prefill_tokens": mix.chunks <= mix.prefill_tokens,
        "prefill_context_tokens": bool(mix.chunks) or not mix.prefill_context_tokens,
        "attention_pairs": mix.prefill_tokens <= 2 * mix.attention_pairs,
    }
    wrong = next((name for name, holds in rules.items() if not holds), "attention_pairs")
    return (
        f"{wrong} is {getattr(mix, wrong)}, which contradicts decodes={mix.decodes}, "
        f"chunks={mix.chunks}, prefill_tokens={mix.prefill_tokens}: "
        "build the mix with Mix.of([(query_tokens, cached_tokens), ...])"
    )


@dataclass(frozen=True, slots=True)
class Preemption:
    """A running request that gives its blocks back and waits again; its tokens are recomputed."""

    request_id: str
    reason: str


@dataclass(frozen=True, slots=True)
class Plan:
    """What the next step does.

    `tokens` maps a request's id to how many of its tokens the step computes (at least 1 each);
    requests that are not named do nothing. `expire` names requests, running or waiting, whose
    hard deadline has passed: they are ended first, then `preempt` is carried out. A plan may name a
    waiting request in `tokens`: it then starts to run. `relegated` names all live requests that
    are served from spare capacity now, because their promise can't be kept.
    """

    tokens: Mapping[str, int] = field(default_factory=dict)
    preempt: tuple[Preemption, ...] = ()
    expire: tuple[str, ...] = ()
    relegated: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Refused:
    """A promise that can't be kept: an answer, not an exception.

    `feasible` maps a target's name (`ttft_s`, `tpot_s`, `deadline_s`) to the best value that could
    be kept now; `retry_after_s` is when asking again makes sense.
    """

    reason: str
    retry_after_s: float
    feasible: Mapping[str, float] = field(default_factory=dict)
