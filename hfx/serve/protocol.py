"""Request bodies: the fields that are read, their limits, and the words that describe them.

Types are strict: a number in quotes is an error, not a number. Fields that are not listed are
ignored; OpenAI fields that would change the answer and are not served are in `UNSUPPORTED`.
"""

from collections.abc import Callable
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, PlainValidator, WithJsonSchema
from pydantic_core import PydanticCustomError

from .tiers import LEAST_MS, MOST_MS

STOP_STRINGS, STOP_CHARACTERS, STOP_TOKENS, BIASES, CHOICES = 16, 1024, 128, 1024, 128
MESSAGES = 16384  # checking more would keep the interpreter to itself for a tenth of a second
INT64 = 2**63
PRIORITIES = 2**31


def _stop(value: Any) -> tuple[str, ...]:
    strings = [value] if isinstance(value, str) else value if value is not None else []
    if not isinstance(strings, list) or not all(isinstance(part, str) for part in strings):
        raise PydanticCustomError("stop", "Input should be a string or a list of strings")
    if len(strings) > STOP_STRINGS:
        raise PydanticCustomError("stop", f"Input should be at most {STOP_STRINGS} strings")
    if not all(0 < len(part) <= STOP_CHARACTERS for part in strings):
        raise PydanticCustomError(
            "stop", f"Input should be strings of 1 to {STOP_CHARACTERS} characters"
        )
    return tuple(strings)


def _bias(value: Any) -> dict[int, float]:
    entries = {} if value is None else value
    if not isinstance(entries, dict):
        raise PydanticCustomError("bias", "Input should be an object: token id to bias")
    if len(entries) > BIASES:
        raise PydanticCustomError("bias", f"Input should be at most {BIASES} entries")
    if not all(_is_token_key(key) for key in entries):
        raise PydanticCustomError("bias", "Input should be an object whose keys are token ids")
    if not all(_is_number(bias) and -100 <= bias <= 100 for bias in entries.values()):
        raise PydanticCustomError("bias", "Input should be biases from -100 to 100")
    return {int(key): float(bias) for key, bias in entries.items()}


def _is_token_key(key: Any) -> bool:
    return isinstance(key, str) and key.isascii() and key.isdigit() and len(key) < 10


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_token(value: Any) -> bool:
    return type(value) is int


Prompt = str | tuple[int, ...]


def _prompts(value: Any) -> tuple[Prompt, ...]:
    if isinstance(value, str):
        return (value,)
    if isinstance(value, list) and value:
        if all(map(_is_token, value)):
            return (tuple(value),)
        if all(isinstance(part, str) for part in value):
            return tuple(value)
        if all(isinstance(part, list) and all(map(_is_token, part)) for part in value):
            return tuple(tuple(part) for part in value)
    raise PydanticCustomError(
        "prompt",
        "Input should be a string, a list of token ids, or a non-empty list of either",
    )


def _checked(validate: Callable[[Any], Any], schema: dict[str, Any]) -> tuple[Any, Any]:
    return PlainValidator(validate), WithJsonSchema(schema)


_TEXT = {"type": "string"}
_TOKENS = {"type": "array", "items": {"type": "integer", "minimum": 0}}
_STOP_LIST = {"type": "array", "items": _TEXT, "maxItems": STOP_STRINGS}
_PROMPT_FORMS = [_TEXT, {"type": "array", "items": _TEXT}, _TOKENS]

Stop = Annotated[
    tuple[str, ...], *_checked(_stop, {"anyOf": [_TEXT, _STOP_LIST, {"type": "null"}]})
]
Bias = Annotated[
    dict[int, float],
    *_checked(
        _bias,
        {
            "type": ["object", "null"],
            "maxProperties": BIASES,
            "additionalProperties": {"type": "number", "minimum": -100, "maximum": 100},
        },
    ),
]
Prompts = Annotated[
    tuple[Prompt, ...],
    *_checked(_prompts, {"anyOf": [*_PROMPT_FORMS, {"type": "array", "items": _TOKENS}]}),
]
Content = Annotated[
    Any,
    WithJsonSchema(
        {
            "anyOf": [
                _TEXT,
                {
                    "type": "array",
                    "items": {
                        "type": "object",
                        "properties": {"type": {"const": "text"}, "text": _TEXT},
                        "required": ["type", "text"],
                    },
                },
            ]
        }
    ),
]


class Body(BaseModel):
    """What all request bodies have in common: strict types, other fields kept for inspection."""

    model_config = ConfigDict(strict=True, extra="allow", protected_namespaces=())


class StreamOptions(Body):
    """How a stream ends."""

    include_usage: bool | None = Field(
        None, description="Send one more chunk at the end that holds `usage`."
    )


Milliseconds = Annotated[float, Field(ge=LEAST_MS, le=MOST_MS)]


class Slo(Body):
    """What the request is promised; targets that are left out are the tier's."""

    model_config = ConfigDict(extra="forbid")

    ttft_ms: Milliseconds | None = Field(
        None, description="Milliseconds from arrival to the first token."
    )
    tpot_ms: Milliseconds | None = Field(
        None, description="Milliseconds per token after the first."
    )
    deadline_ms: Milliseconds | None = Field(
        None, description="Milliseconds from arrival to the last token."
    )
    on_miss: Literal["relegate", "refuse"] | None = Field(
        None,
        description="A promise that can't be kept: `relegate` serves the request later, from spare "
        "capacity; `refuse` answers 429 before any work, and 504 once the deadline has passed. "
        "`relegate` if left out, or `refuse` where the tier may.",
    )


class GenerationBody(Body):
    """The fields that chat and text completions share."""

    model: str | None = Field(None, description="One of `/v1/models`; the only one if left out.")
    stream: bool | None = Field(None, description="Send tokens as they come (server-sent events).")
    stream_options: StreamOptions | None = Field(None, description="Needs `stream`.")
    n: int | None = Field(None, ge=1, le=CHOICES, description="Choices per prompt.")
    max_tokens: int | None = Field(None, ge=1, description="Most tokens to generate per choice.")
    temperature: float | None = Field(None, ge=0, le=100, description="0 is greedy.")
    top_p: float | None = Field(
        None, gt=0, le=1, description="Keep the likeliest tokens that add up to this probability."
    )
    seed: int | None = Field(
        None, ge=-INT64, lt=INT64, description="Same seed, same request: same random numbers."
    )
    stop: Stop = Field((), description="Up to 16 strings that end the output, themselves unshown.")
    presence_penalty: float | None = Field(
        None, ge=-2, le=2, description="Taken off the logits of tokens that have come."
    )
    frequency_penalty: float | None = Field(
        None, ge=-2, le=2, description="The same, once per time they have come."
    )
    logit_bias: Bias = Field(default_factory=dict, description="Token id to bias, -100 to 100.")
    user: str | None = Field(None, description="Accepted and not used.")
    service_tier: str | None = Field(
        None,
        description="`auto`, `default`, `flex`, `priority`, or a tier of the server's "
        "configuration (`/v1/tiers`); the answer says which was given.",
    )

    slo: Slo | None = Field(None, description="The promise; headers win over it, it over the tier.")
    ttft_slo_ms: Milliseconds | None = Field(None, description="The same as `slo.ttft_ms`.")
    tpot_slo_ms: Milliseconds | None = Field(None, description="The same as `slo.tpot_ms`.")
    ttlt_slo_ms: Milliseconds | None = Field(None, description="The same as `slo.deadline_ms`.")
    expected_output_tokens: int | None = Field(
        None, ge=1, lt=INT64, description="A hint: how long the output will be, about."
    )
    nvext: dict[str, Any] | None = Field(
        None, description="`agent_hints.osl` is read as `expected_output_tokens`."
    )

    top_k: int | None = Field(
        None, ge=-1, lt=INT64, description="Keep the k likeliest tokens; 0 or -1: all."
    )
    min_p: float | None = Field(
        None, ge=0, le=1, description="Drop tokens less likely than this times the likeliest."
    )
    repetition_penalty: float | None = Field(
        None,
        ge=0.01,
        le=100,
        description="Above 1: tokens of prompt and output become less likely.",
    )
    min_tokens: int | None = Field(None, ge=0, description="No end of sequence before this many.")
    ignore_eos: bool | None = Field(None, description="Go on to `max_tokens`.")
    stop_token_ids: list[int] | None = Field(
        None, max_length=STOP_TOKENS, description="Up to 128 tokens that end the output."
    )
    include_stop_str_in_output: bool | None = Field(None, description="Show the stop string too.")
    skip_special_tokens: bool | None = Field(
        None, description="Leave out tokens such as the end of a turn; true if not given."
    )
    priority: int | None = Field(
        None,
        ge=-PRIORITIES,
        lt=PRIORITIES,
        description="Lower goes first, where the policy uses it.",
    )
    request_id: str | None = Field(
        None, min_length=1, max_length=128, description="Becomes part of the answer's `id`."
    )
    cache_salt: str | None = Field(
        None, min_length=1, max_length=256, description="Shares cached prefixes within one salt."
    )
    return_token_ids: bool | None = Field(None, description="Add token ids to the answer.")
    truncate_prompt_tokens: int | None = Field(
        None, ge=-1, lt=INT64, description="Keep the last k prompt tokens; -1: what fits."
    )


class ChatMessage(Body):
    """One turn of a conversation."""

    role: Literal["system", "developer", "user", "assistant", "tool", "function"]
    content: Content = Field(None, description="Text, or parts of type `text`.")
    name: str | None = None


class ChatCompletionRequest(GenerationBody):
    """`POST /v1/chat/completions`."""

    messages: list[ChatMessage] = Field(
        min_length=1, max_length=MESSAGES, description="The conversation so far."
    )
    max_completion_tokens: int | None = Field(
        None, ge=1, description="OpenAI's newer name of `max_tokens`; wins over it."
    )
    logprobs: bool | None = Field(None, description="Report log probabilities.")
    top_logprobs: int | None = Field(
        None, ge=0, le=20, description="Alternatives per token; needs `logprobs`."
    )
    add_generation_prompt: bool | None = Field(None, description="Open the assistant's turn.")
    continue_final_message: bool | None = Field(
        None, description="Go on with the last message; needs `add_generation_prompt` false."
    )
    chat_template_kwargs: dict[str, Any] | None = Field(
        None, description="More variables for the chat template."
    )


class CompletionRequest(GenerationBody):
    """`POST /v1/completions`."""

    prompt: Prompts = Field(description="Text or token ids, or a list of either.")
    logprobs: int | None = Field(None, ge=0, le=20, description="Alternatives per token.")
    echo: bool | None = Field(None, description="Put the prompt in front of the output.")
    best_of: int | None = Field(None, ge=1, description="Only the value of `n`.")
    add_special_tokens: bool | None = Field(None, description="Tokenise with BOS and the like.")


class TokenizeRequest(Body):
    """`POST /tokenize`: either `prompt` or `messages`."""

    model: str | None = None
    prompt: str | None = None
    messages: list[ChatMessage] | None = Field(None, min_length=1, max_length=MESSAGES)
    add_special_tokens: bool | None = None
    add_generation_prompt: bool | None = None
    continue_final_message: bool | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    return_token_strs: bool | None = Field(None, description="Add each token's text.")


class DetokenizeRequest(Body):
    """`POST /detokenize`."""

    model: str | None = None
    tokens: list[int]


# Field -> (the values that ask for nothing, what is supported in words). Anything else is a 400:
# an answer that ignored one of these would look right and be wrong.
_NOTHING: tuple[Any, ...] = (None, [], {}, False)
UNSUPPORTED: dict[str, tuple[tuple[Any, ...], str]] = {
    "tools": (_NOTHING, "plain text without tools"),
    "tool_choice": ((None, "none"), "'none'"),
    "functions": (_NOTHING, "plain text without functions"),
    "function_call": ((None, "none"), "'none'"),
    "response_format": ((None, {"type": "text"}), "{'type': 'text'}"),
    "modalities": ((None, [], ["text"]), "['text']"),
    "audio": (_NOTHING, "text output"),
    "prediction": (_NOTHING, "requests without it"),
    "web_search_options": ((None,), "requests without it"),
    "reasoning_effort": ((None, "none"), "'none'"),
    "store": (_NOTHING, "false"),
    "suffix": ((None, ""), "completion from the left"),
    "prompt_logprobs": ((None, False), "log probabilities of the output"),
    "use_beam_search": (_NOTHING, "sampling"),
    "structured_outputs": (_NOTHING, "unconstrained text"),
    "guided_json": (_NOTHING, "unconstrained text"),
    "guided_regex": (_NOTHING, "unconstrained text"),
    "guided_choice": (_NOTHING, "unconstrained text"),
    "guided_grammar": (_NOTHING, "unconstrained text"),
}
