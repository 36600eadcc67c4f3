"""Answers as documentation: the shapes that clients get. Hot paths build them as plain objects."""

from typing import Any

from pydantic import BaseModel, Field


class ErrorDetail(BaseModel):
    """What went wrong."""

    message: str
    type: str
    param: str | None = Field(description="The dotted field at fault.")
    code: str | None


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


class Reply(BaseModel):
    """What all completions share."""

    id: str
    object: str
    created: int = Field(description="Seconds since 1970.")
    model: str
    system_fingerprint: str
    service_tier: str | None = None


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


class Version(BaseModel):
    """The answer of `/version`."""

    version: str
