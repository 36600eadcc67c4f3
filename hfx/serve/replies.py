"""Answers as documentation: the shapes that clients get. Hot paths build them as plain objects."""

from typing import Any

from pydantic import BaseModel, Field


class ErrorDetail(BaseModel):
    """What went wrong."""

    message: str
    type: str
    param: str | None = Field(description="The dotted field at fault.")
    code: str | None


class RefusalDetail(ErrorDetail):
    """Why a promise was refused, or a queue full, and what could be promised now."""

    feasible: dict[str, float] = Field(
        description="The best `ttft_ms`, `tpot_ms` and `deadline_ms` that could be promised now."
    )
    retry_after_ms: float | None = Field(description="When asking again makes sense.")


class RefusalReply(BaseModel):
    """The answer 429: `type` is `slo_infeasible` or `overloaded`, `param` the target."""

    error: RefusalDetail


class ErrorReply(BaseModel):
    """Every answer other than 2xx."""

    error: ErrorDetail


class PromptDetails(BaseModel):
    """How the prompt was served."""

    cached_tokens: int = Field(description="Prompt tokens found in the prefix cache.")


class Usage(BaseModel):
    """Tokens in and out."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptDetails


class Interval(BaseModel):
    """A predicted time in milliseconds; 19 of 20 are meant to stay below `upper`."""

    mean: float
    upper: float


class TargetOutcome(BaseModel):
    """One target and what became of it, in milliseconds."""

    target: float
    predicted: Interval | None
    actual: float | None = Field(description="Null where it did not come to that.")
    met: bool
    missed_because: str | None = Field(
        description="`queue` (other requests went first), `prompt` or `decode` (its own work takes "
        "longer than promised), `interference` (others' prompts in its steps), `preemption`, `kv` "
        "(no free block of the cache), `host` (all around the steps)."
    )


class PromiseOutcome(BaseModel):
    """What became of a promise."""

    tier: str
    met: bool = Field(description="All targets; TPOT as the mean over the output.")
    met_cumulative: bool = Field(
        description="The same, with each token due at arrival + TTFT + (n - 1) TPOT instead."
    )
    missed_because: str | None = Field(description="The cause of the first target missed.")
    relegated: bool = Field(description="It was served from spare capacity for a while.")
    targets: dict[str, TargetOutcome]


class Metrics(BaseModel):
    """What an answer took; of several choices, of one that missed its promise, or the last."""

    time_to_first_token_ms: float | None
    generation_time_ms: float | None = Field(description="From the first token to the last.")
    queue_time_ms: float | None = Field(description="From arrival to the first step.")
    mean_itl_ms: float | None = Field(description="Mean time per token after the first.")
    tokens_per_second: float | None
    total_time_ms: float | None = Field(description="From arrival to the last token.")
    preemptions: int
    time_ms: dict[str, float] = Field(description="All of it, by cause.")
    predicted: dict[str, Interval | None] = Field(
        description="On arrival: `ttft_ms`, `tpot_ms`, and `deadline_ms`, the time to the end."
    )
    slo: PromiseOutcome | None = Field(description="Null where nothing was promised.")


class Reply(BaseModel):
    """What all completions share."""

    id: str
    object: str
    created: int = Field(description="Seconds since 1970.")
    model: str
    system_fingerprint: str
    service_tier: str | None = Field(
        None, description="The tier that was given, where the request named one or a target."
    )
    metrics: Metrics | None = Field(
        None,
        description="Where the request named a tier or a target, or the server was started with "
        "`--enable-per-request-metrics`. In a stream, beside a choice's last chunk.",
    )


class Ending(BaseModel):
    """Why a choice ended."""

    finish_reason: str = Field(description="`stop` or `length`.")
    stop_reason: str | int | None = Field(description="The stop string or token id that ended it.")
    token_ids: list[int] | None = None


class Likelihood(BaseModel):
    """One token's log probability."""

    token: str
    logprob: float
    bytes: list[int]


class TokenLikelihood(Likelihood):
    """A chosen token and its likeliest alternatives."""

    top_logprobs: list[Likelihood]


class ChatLikelihoods(BaseModel):
    """Log probabilities of a chat choice."""

    content: list[TokenLikelihood]
    refusal: None


class Message(BaseModel):
    """The assistant's turn."""

    role: str
    content: str
    refusal: None


class ChatChoice(Ending):
    """One answer to a conversation."""

    index: int
    message: Message
    logprobs: ChatLikelihoods | None


class ChatCompletion(Reply):
    """The answer of `/v1/chat/completions`; a stream sends `chat.completion.chunk` objects."""

    choices: list[ChatChoice]
    usage: Usage
    prompt_token_ids: list[int] | None = None


class TextLikelihoods(BaseModel):
    """Log probabilities of a text choice, as parallel lists."""

    tokens: list[str]
    token_logprobs: list[float]
    top_logprobs: list[dict[str, float]]
    text_offset: list[int]


class TextChoice(Ending):
    """One continuation of a prompt."""

    index: int
    text: str
    logprobs: TextLikelihoods | None
    prompt_token_ids: list[int] | None = None


class Completion(Reply):
    """The answer of `/v1/completions`; a stream sends the same with partial choices."""

    choices: list[TextChoice]
    usage: Usage


class EstimatedTime(Interval):
    """A predicted time; `lower` lies as far below the mean, as a factor, as `upper` above."""

    lower: float


class Estimate(BaseModel):
    """The answer of `/v1/estimate`, for a request that would come now."""

    object: str = "estimate"
    model: str
    service_tier: str
    prompt_tokens: int
    ttft_ms: EstimatedTime = Field(description="From arrival to the first token.")
    tpot_ms: EstimatedTime = Field(description="Per token after the first.")
    finish_ms: EstimatedTime = Field(description="From arrival to the last token.")
    feasible: bool = Field(description="Whether the promise, if one was asked for, can be kept.")
    refusal: RefusalDetail | None = Field(description="What `on_miss` `refuse` would answer.")


class TierCard(BaseModel):
    """One class of service; targets in milliseconds, null where nothing is promised."""

    name: str
    ttft_ms: float | None
    tpot_ms: float | None
    deadline_ms: float | None
    weight: float = Field(description="How much a kept promise counts beside others'.")
    may_refuse: bool
    may_relegate: bool
    feasible: bool | None = Field(
        description="Whether an idle server can keep it; null without a cost model."
    )
    reachable: dict[str, float] = Field(description="The best an idle server can do, if it is not.")


class TierList(BaseModel):
    """The tiers that `service_tier` may name, beside `auto`."""

    object: str = "list"
    data: list[TierCard]


class ModelCard(BaseModel):
    """One served model."""

    id: str
    object: str = "model"
    created: int
    owned_by: str = "hfx"
    root: str
    parent: str | None = None
    max_model_len: int
    permission: list[dict[str, Any]] = []
    emulated: str | None = Field(
        default=None,
        description="The cost profile of the device that is emulated; absent on a real one.",
    )


class ModelList(BaseModel):
    """The served models."""

    object: str = "list"
    data: list[ModelCard]


class Tokenized(BaseModel):
    """The answer of `/tokenize`."""

    tokens: list[int]
    count: int
    max_model_len: int
    token_strs: list[str] | None


class Detokenized(BaseModel):
    """The answer of `/detokenize`."""

    prompt: str


class Status(BaseModel):
    """The answer of `/health` and `/ready`."""

    status: str = Field(description="`ok`, or the state: `loading`, `draining`, `dead`.")
    phase: str | None = Field(None, description="What is being done while loading.")
    replicas: dict[str, int] | None = Field(
        None, description="How many replicas are in each phase, where there are several."
    )


class Version(BaseModel):
    """The answer of `/version`."""

    version: str
    emulated: str | None = Field(
        default=None,
        description="The cost profile of the device that is emulated; absent on a real one.",
    )
