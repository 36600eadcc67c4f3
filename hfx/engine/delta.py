"""What an engine tells about a request: the tokens and text that are new since it last told.

Times are seconds on the engine's clock; counts are tokens.
"""

from dataclasses import dataclass, replace

from hfx.request import FinishReason

from .account import Account


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    """How likely the model held a chosen token: natural log of its probability before sampling.

    `rank` 1 is the most likely token. `top` holds the most likely (token id, log probability)
    pairs, best first, as many as were asked for.
    """

    token_id: int
    logprob: float
    rank: int
    top: tuple[tuple[int, float], ...] = ()


@dataclass(frozen=True, slots=True)
class RequestTimes:
    """When a request arrived, first ran, and gave its first and its latest token; None: not yet."""

    arrival_s: float
    scheduled_s: float | None = None
    first_token_s: float | None = None
    last_token_s: float | None = None


@dataclass(frozen=True, slots=True)
class Delta:
    """News of one request. The texts of all its deltas, joined, are its whole output.

    `text` may lag behind `token_ids`: half a character or what may become a stop string is held
    back until it is decided. `finish_reason` is set on the last delta only, and then `stop_reason`
    is the stop string or token id that ended it, if one did, and `error` says what failed.
    `prompt_tokens`, `output_tokens`, `cached_tokens` (of the prompt, found in the prefix cache) and
    `preemptions` are totals so far. `account` says where the time went; it is set on the last delta
    only.
    """

    request_id: str
    token_ids: tuple[int, ...]
    text: str
    logprobs: tuple[TokenLogprob, ...] | None
    finish_reason: FinishReason | None
    stop_reason: str | int | None
    prompt_tokens: int
    output_tokens: int
    cached_tokens: int
    times: RequestTimes
    preemptions: int = 0
    error: str | None = None
    account: Account | None = None

    def followed_by(self, later: "Delta") -> "Delta":
        """Both as one delta, as if the reader had looked only once."""
        assert self.request_id == later.request_id and self.finish_reason is None
        logprobs = None
        if self.logprobs is not None or later.logprobs is not None:
            logprobs = (self.logprobs or ()) + (later.logprobs or ())
        return replace(
            later,
            token_ids=self.token_ids + later.token_ids,
            text=self.text + later.text,
            logprobs=logprobs,
        )
