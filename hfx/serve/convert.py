"""From a request body to what the engine is asked: prompts, sampling, requests. No I/O, no clock.

Everything here raises `ApiError` that names the field, its value and what is allowed.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

from hfx.request import Request, Sampling

from .errors import ApiError, bad_field, not_found, shown, unsupported
from .promises import Promise
from .protocol import (
    INT64,
    UNSUPPORTED,
    Body,
    ChatCompletionRequest,
    ChatMessage,
    CompletionRequest,
    GenerationBody,
)

COMPLETIONS = 2048  # of one request, over all its prompts
COMPLETION_TOKENS = 16  # OpenAI's default of `max_tokens` for text completions
_RESERVED = ("messages", "add_generation_prompt", "conversation")


class Defaults(Protocol):
    """The model's own sampling settings; None where it has none."""

    @property
    def temperature(self) -> float | None: ...
    @property
    def top_p(self) -> float | None: ...
    @property
    def top_k(self) -> int | None: ...
    @property
    def repetition_penalty(self) -> float | None: ...
    @property
    def max_new_tokens(self) -> int | None: ...


@dataclass(frozen=True, slots=True)
class Served:
    """What conversion needs to know of the model: its names, limits and sampling defaults."""

    names: tuple[str, ...]
    max_model_len: int
    vocab_size: int
    defaults: Defaults


def check_model(model: str | None, served: Served) -> str:
    """The name to answer with; a 404 for one that is not served."""
    if model is None:
        return served.names[0]
    if model not in served.names:
        raise not_found(model, served.names)
    return model


def check_supported(body: Body) -> None:
    """A 400 for an OpenAI field that would change the answer and is not served."""
    extra = body.model_extra or {}
    for field, (harmless, supported) in UNSUPPORTED.items():
        if field in extra and extra[field] not in harmless:
            raise unsupported(field, extra[field], supported)
    if isinstance(body, GenerationBody) and body.stream_options and not body.stream:
        raise bad_field("stream_options", "stream_options is only allowed with stream true")
    if isinstance(body, CompletionRequest):
        _check_completion(body)
    if isinstance(body, ChatCompletionRequest) and body.top_logprobs and not body.logprobs:
        raise bad_field(
            "top_logprobs", f"top_logprobs is {body.top_logprobs}: it needs logprobs true"
        )


def _check_completion(body: CompletionRequest) -> None:
    choices = len(body.prompt) * (body.n or 1)
    if choices > COMPLETIONS:
        raise bad_field(
            "prompt",
            f"{len(body.prompt)} prompts with n {body.n or 1} are {choices} completions: at most "
            f"{COMPLETIONS} fit into one request",
        )
    if body.best_of is not None and body.best_of != (body.n or 1):
        raise unsupported("best_of", body.best_of, f"the value of n ({body.n or 1})")
    if body.echo and body.logprobs is not None:
        raise unsupported("logprobs", body.logprobs, "log probabilities without echo")


def conversation(messages: Sequence[ChatMessage]) -> list[dict[str, Any]]:
    """Messages as the chat template takes them: role, text, and a name if there is one."""
    return [_turn(message, f"messages.{place}") for place, message in enumerate(messages)]


def _turn(message: ChatMessage, where: str) -> dict[str, Any]:
    if message.role in ("tool", "function"):
        raise unsupported(f"{where}.role", message.role, "system, developer, user and assistant")
    for field in ("tool_calls", "function_call", "audio"):
        value = (message.model_extra or {}).get(field)
        if value not in (None, []):
            raise unsupported(f"{where}.{field}", value, "text messages")
    role = "system" if message.role == "developer" else message.role
    turn = {"role": role, "content": _text(message.content, f"{where}.content")}
    return turn if message.name is None else turn | {"name": message.name}


def _text(content: object, where: str) -> str:
    if isinstance(content, str):
        return content
    if not isinstance(content, list) or not content:
        raise bad_field(
            where, f"{where} is {shown(content)}: it must be a string or a list of text parts"
        )
    return "".join(_part(part, f"{where}.{place}") for place, part in enumerate(content))


def _part(part: object, where: str) -> str:
    if not isinstance(part, dict):
        raise bad_field(where, f"{where} is {shown(part)}: it must be an object with a type")
    if part.get("type") != "text":
        raise unsupported(f"{where}.type", part.get("type"), "'text'")
    if not isinstance(part.get("text"), str):
        raise bad_field(
            f"{where}.text", f"{where}.text is {shown(part.get('text'))}: it must be a string"
        )
    return str(part["text"])


class Template(Protocol):
    """A chat template: messages in, the prompt's text out."""

    def render(
        self, messages: list[dict[str, Any]], add_generation_prompt: bool = True, **kwargs: Any
    ) -> str: ...


def render(
    template: Template | None,
    messages: list[dict[str, Any]],
    *,
    opens: bool | None,
    continues: bool | None,
    variables: Mapping[str, Any] | None,
) -> str:
    """The prompt of a conversation. `opens` starts the assistant's turn (the default),
    `continues` leaves the last message open instead."""
    if template is None:
        raise bad_field(
            "messages",
            "this model has no chat template: use /v1/completions, or start the server with "
            "--chat-template",
            "no_chat_template",
        )
    if opens and continues:
        raise bad_field(
            "continue_final_message",
            "continue_final_message is true: it needs add_generation_prompt false",
        )
    for name in _RESERVED:
        if name in (variables or {}):
            where = f"chat_template_kwargs.{name}"
            raise bad_field(where, f"{where} can't be set here: use the field of the request")
    opens = not continues if opens is None else opens
    try:
        text = template.render(messages, add_generation_prompt=opens, **(variables or {}))
    except Exception as error:  # whatever a template raises was brought about by the messages
        reason = f"the model's chat template refused the messages: {shown(str(error))}"
        raise bad_field("messages", reason, "chat_template_error") from error
    return _left_open(text, messages[-1]["content"].strip()) if continues else text


def _left_open(text: str, last: str) -> str:
    place = text.rfind(last) if last else -1
    if place < 0:
        raise bad_field("messages", "the last message can't be continued: the template changes it")
    return text[: place + len(last)]


def sampling(body: GenerationBody, served: Served, prompt_tokens: int) -> Sampling:
    """How to sample: the request's values over the model's defaults over neutral ones."""
    own = served.defaults
    field, max_tokens = _max_tokens(body, served, prompt_tokens)
    check_tokens("stop_token_ids", body.stop_token_ids or (), served)
    check_tokens("logit_bias", body.logit_bias, served)
    top_k = _first(body.top_k, own.top_k, 0)
    try:
        return Sampling(
            max_tokens=max_tokens,
            min_tokens=body.min_tokens or 0,
            temperature=_first(body.temperature, own.temperature, 1.0),
            top_p=_first(body.top_p, own.top_p, 1.0),
            top_k=max(top_k, 0),
            min_p=body.min_p or 0.0,
            presence_penalty=body.presence_penalty or 0.0,
            frequency_penalty=body.frequency_penalty or 0.0,
            repetition_penalty=_first(body.repetition_penalty, own.repetition_penalty, 1.0),
            logit_bias=body.logit_bias,
            seed=body.seed,
            stop=body.stop,
            stop_token_ids=tuple(body.stop_token_ids or ()),
            include_stop_str_in_output=bool(body.include_stop_str_in_output),
            ignore_eos=bool(body.ignore_eos),
            skip_special_tokens=body.skip_special_tokens is not False,
            logprobs=_logprobs(body),
        )
    except ValueError as error:
        param = str(error).split(" ", 1)[0]
        message = str(error).replace("max_tokens)", f"{field})")
        raise bad_field(param, message, "invalid") from None


def _first(*values: Any) -> Any:
    return next(value for value in values if value is not None)


def _max_tokens(body: GenerationBody, served: Served, prompt_tokens: int) -> tuple[str, int]:
    """The field that limits the output, and the limit."""
    field, wanted = "max_tokens", body.max_tokens
    if isinstance(body, ChatCompletionRequest) and body.max_completion_tokens is not None:
        field, wanted = "max_completion_tokens", body.max_completion_tokens
    room = served.max_model_len - prompt_tokens
    if wanted is not None and wanted > room:
        raise bad_field(
            field,
            f"{field} is {wanted}: the prompt has {prompt_tokens} tokens and the model's context "
            f"is {served.max_model_len}, so at most {room} are possible",
            "context_length_exceeded",
        )
    if wanted is not None:
        return field, wanted
    unset = COMPLETION_TOKENS
    if isinstance(body, ChatCompletionRequest):
        unset = served.defaults.max_new_tokens or room  # what the model's makers advise
    return field, max(min(unset, room), min(body.min_tokens or 0, room))


def _logprobs(body: GenerationBody) -> int | None:
    if isinstance(body, ChatCompletionRequest):
        return (body.top_logprobs or 0) if body.logprobs else None
    assert isinstance(body, CompletionRequest)
    return body.logprobs


def check_tokens(field: str, tokens: Any, served: Served) -> None:
    """A 400 for a token id that the model does not have."""
    for token in tokens:
        if not 0 <= token < served.vocab_size:
            raise bad_field(
                field,
                f"{field} has token id {shown(token)}: the model's ids go from 0 to "
                f"{served.vocab_size - 1}",
                "invalid_token",
            )


def fitted(
    tokens: Sequence[int], served: Served, *, field: str, keep: int | None
) -> tuple[int, ...]:
    """Prompt tokens, cut to the last `keep` (-1: what leaves room for one token) and checked."""
    limit = served.max_model_len - 1
    if keep is not None:
        tokens = tokens[-min(limit if keep == -1 else keep, len(tokens)) :] if keep else ()
    if not tokens:
        raise bad_field(field, f"{field} is empty: give at least one token", "empty_prompt")
    if len(tokens) > limit:
        raise too_long(field, len(tokens), served)
    check_tokens(field, tokens, served)
    return tuple(tokens)


def too_long(field: str, tokens: int | str, served: Served) -> ApiError:
    """A 400 for a prompt that leaves no room for output."""
    return bad_field(
        field,
        f"{field} has {tokens} tokens: the model's context is {served.max_model_len} tokens, so at "
        f"most {served.max_model_len - 1} leave room for output",
        "context_length_exceeded",
    )


def requests(
    body: GenerationBody,
    prompts: Sequence[tuple[int, ...]],
    served: Served,
    *,
    promise: Promise,
    request_id: str,
    arrival_s: float,
) -> tuple[Request, ...]:
    """One request per prompt and choice, in the order of the answer's `index`.

    With a seed, choice k of a prompt samples with seed + k: alike when asked again, not all alike.
    """
    made: list[Request] = []
    for tokens in prompts:
        base = sampling(body, served, len(tokens))
        for choice in range(body.n or 1):
            made.append(
                Request(
                    id=f"{request_id}-{len(made)}",
                    prompt_token_ids=tokens,
                    sampling=_reseeded(base, choice),
                    objective=promise.objective,
                    arrival_s=arrival_s,
                    priority=promise.priority,
                    cache_salt=body.cache_salt or "",
                    expected_output_tokens=promise.expected_output_tokens,
                )
            )
    return tuple(made)


def _reseeded(base: Sampling, choice: int) -> Sampling:
    if base.seed is None or not choice:
        return base
    return replace(base, seed=(base.seed + choice + INT64) % (2 * INT64) - INT64)
