"""The form of answers: chat or text completion, whole or in chunks, as OpenAI's clients read them.

A form turns what one choice gained into a JSON-able choice object; `Chunks` wraps choices into
server-sent events whose constant parts are serialised once.
"""

import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Protocol

import orjson

from hfx.engine.delta import Delta, TokenLogprob

LOWEST_LOGPROB = -9999.0  # JSON has no -inf; the value that other servers send for it


class Vocabulary(Protocol):
    """What forms need of a tokenizer."""

    def token_text(self, token_id: int) -> str: ...
    def token_bytes(self, token_id: int) -> bytes: ...


@dataclass(frozen=True, slots=True)
class Head:
    """What is the same in the answer's every chunk."""

    id: str
    model: str
    created: int  # seconds since 1970
    fingerprint: str
    tier: str | None = None  # the service tier that was given, if the answer is to say
    usage: bool = False  # whether a stream ends with a chunk of usage

    def document(self, kind: str) -> dict[str, Any]:
        """The common fields, with `object` = `kind`."""
        shared: dict[str, Any] = {
            "id": self.id,
            "object": kind,
            "created": self.created,
            "model": self.model,
            "system_fingerprint": self.fingerprint,
        }
        return shared if self.tier is None else shared | {"service_tier": self.tier}


@dataclass(slots=True)
class Choice:
    """One choice of a whole answer while its deltas come in."""

    index: int
    prompt_token_ids: tuple[int, ...]
    echo: str = ""
    texts: list[str] = field(default_factory=list)
    token_ids: list[int] = field(default_factory=list)
    logprobs: list[TokenLogprob] = field(default_factory=list)
    last: Delta | None = None

    def add(self, delta: Delta) -> None:
        """Take in what is new."""
        self.texts.append(delta.text)
        self.token_ids.extend(delta.token_ids)
        self.logprobs.extend(delta.logprobs or ())
        self.last = delta

    @property
    def text(self) -> str:
        return self.echo + "".join(self.texts)

    @property
    def ending(self) -> dict[str, Any]:
        """`finish_reason` and `stop_reason`."""
        assert self.last is not None and self.last.finish_reason is not None
        return {
            "finish_reason": self.last.finish_reason.value,
            "stop_reason": self.last.stop_reason,
        }


class Form(Protocol):
    """The shape of one endpoint's choices."""

    whole_object: str
    chunk_object: str

    def whole(self, choice: Choice) -> dict[str, Any]:
        """The choice of a complete answer."""
        ...

    def opening(self, index: int, echo: str, prompt: tuple[int, ...]) -> dict[str, Any] | None:
        """The choice of a stream's first chunk, before any token."""
        ...

    def piece(self, index: int, delta: Delta) -> dict[str, Any] | None:
        """The choice of the chunk for `delta`; None where there is nothing to show yet."""
        ...

    def closing(self, index: int, delta: Delta) -> dict[str, Any]:
        """The choice of the chunk that says why it ended."""
        ...

    def head_extra(self, prompts: Sequence[tuple[int, ...]]) -> dict[str, Any]:
        """More fields of the answer beside its choices."""
        ...


class ChatForm:
    """Choices with a message, or a delta of one."""

    whole_object = "chat.completion"
    chunk_object = "chat.completion.chunk"

    def __init__(self, vocabulary: Vocabulary, *, logprobs: bool, token_ids: bool) -> None:
        self._vocabulary = vocabulary
        self._logprobs = logprobs
        self._token_ids = token_ids

    def whole(self, choice: Choice) -> dict[str, Any]:
        made = {
            "index": choice.index,
            "message": {"role": "assistant", "content": choice.text, "refusal": None},
            "logprobs": self._likelihoods(choice.logprobs) if self._logprobs else None,
        } | choice.ending
        return made | {"token_ids": choice.token_ids} if self._token_ids else made

    def opening(self, index: int, echo: str, prompt: tuple[int, ...]) -> dict[str, Any] | None:
        delta = {"role": "assistant", "content": ""}
        return {"index": index, "delta": delta, "logprobs": None, "finish_reason": None}

    def piece(self, index: int, delta: Delta) -> dict[str, Any] | None:
        if not (delta.text or (delta.token_ids and (self._logprobs or self._token_ids))):
            return None
        made = {
            "index": index,
            "delta": {"content": delta.text},
            "logprobs": self._likelihoods(delta.logprobs or ()) if self._logprobs else None,
            "finish_reason": None,
        }
        return made | {"token_ids": delta.token_ids} if self._token_ids else made

    def closing(self, index: int, delta: Delta) -> dict[str, Any]:
        assert delta.finish_reason is not None
        return {
            "index": index,
            "delta": {},
            "logprobs": None,
            "finish_reason": delta.finish_reason.value,
            "stop_reason": delta.stop_reason,
        }

    def head_extra(self, prompts: Sequence[tuple[int, ...]]) -> dict[str, Any]:
        return {"prompt_token_ids": prompts[0]} if self._token_ids else {}

    def _likelihoods(self, logprobs: Sequence[TokenLogprob]) -> dict[str, Any]:
        content = [
            self._token(entry.token_id, entry.logprob)
            | {"top_logprobs": [self._token(*alternative) for alternative in entry.top]}
            for entry in logprobs
        ]
        return {"content": content, "refusal": None}

    def _token(self, token_id: int, logprob: float) -> dict[str, Any]:
        raw = self._vocabulary.token_bytes(token_id)
        return {
            "token": self._vocabulary.token_text(token_id),
            "logprob": max(logprob, LOWEST_LOGPROB),
            "bytes": list(raw),
        }


class CompletionForm:
    """Choices with text; log probabilities as parallel lists with character offsets."""

    whole_object = "text_completion"
    chunk_object = "text_completion"

    def __init__(self, vocabulary: Vocabulary, *, logprobs: bool, token_ids: bool) -> None:
        self._vocabulary = vocabulary
        self._logprobs = logprobs
        self._token_ids = token_ids
        self._offsets: dict[int, int] = {}  # of each choice's next token, in characters

    def whole(self, choice: Choice) -> dict[str, Any]:
        made = {
            "index": choice.index,
            "text": choice.text,
            "logprobs": self._likelihoods(choice.index, choice.logprobs),
        } | choice.ending
        if not self._token_ids:
            return made
        return made | {
            "prompt_token_ids": choice.prompt_token_ids,
            "token_ids": choice.token_ids,
        }

    def opening(self, index: int, echo: str, prompt: tuple[int, ...]) -> dict[str, Any] | None:
        if not echo and not self._token_ids:
            return None
        made = {"index": index, "text": echo, "logprobs": None, "finish_reason": None}
        return made | {"prompt_token_ids": prompt, "token_ids": []} if self._token_ids else made

    def piece(self, index: int, delta: Delta) -> dict[str, Any] | None:
        if not (delta.text or (delta.token_ids and (self._logprobs or self._token_ids))):
            return None
        made = {
            "index": index,
            "text": delta.text,
            "logprobs": self._likelihoods(index, delta.logprobs or ()),
            "finish_reason": None,
        }
        return made | {"token_ids": delta.token_ids} if self._token_ids else made

    def closing(self, index: int, delta: Delta) -> dict[str, Any]:
        assert delta.finish_reason is not None
        return {
            "index": index,
            "text": "",
            "logprobs": None,
            "finish_reason": delta.finish_reason.value,
            "stop_reason": delta.stop_reason,
        }

    def head_extra(self, prompts: Sequence[tuple[int, ...]]) -> dict[str, Any]:
        return {}

    def _likelihoods(self, index: int, logprobs: Sequence[TokenLogprob]) -> dict[str, Any] | None:
        if not self._logprobs:
            return None
        lists: dict[str, list[Any]] = {
            "tokens": [],
            "token_logprobs": [],
            "top_logprobs": [],
            "text_offset": [],
        }
        for entry in logprobs:
            text = self._vocabulary.token_text(entry.token_id)
            offset = self._offsets.get(index, 0)
            self._offsets[index] = offset + len(text)
            lists["tokens"].append(text)
            lists["token_logprobs"].append(max(entry.logprob, LOWEST_LOGPROB))
            lists["top_logprobs"].append(self._alternatives(entry))
            lists["text_offset"].append(offset)
        return lists

    def _alternatives(self, entry: TokenLogprob) -> dict[str, float]:
        """Text to log probability, the chosen token included whatever its rank."""
        pairs = [*entry.top, (entry.token_id, entry.logprob)]
        return {
            self._vocabulary.token_text(token_id): max(logprob, LOWEST_LOGPROB)
            for token_id, logprob in pairs
        }


class Chunks:
    """Server-sent events of one stream, as bytes."""

    DONE = b"data: [DONE]\n\n"
    KEEP_ALIVE = b": keep-alive\n\n"

    def __init__(self, head: Head, kind: str) -> None:
        self._head = orjson.dumps(head.document(kind))[:-1]
        self._open = b"data: " + self._head + b',"choices":['
        self._close = b'],"usage":null}\n\n' if head.usage else b"]}\n\n"

    def choice(self, choice: dict[str, Any], extra: dict[str, Any] | None = None) -> bytes:
        """A chunk with one choice, and more fields beside it if there are any."""
        if not extra:
            return self._open + orjson.dumps(choice) + self._close
        beside = b"]," + orjson.dumps(extra)[1:-1]
        return self._open + orjson.dumps(choice) + beside + self._close[1:]

    def usage(self, usage: dict[str, Any]) -> bytes:
        """The chunk without choices that ends a stream with usage."""
        return b"data: " + self._head + b',"choices":[],"usage":' + orjson.dumps(usage) + b"}\n\n"

    @staticmethod
    def error(body: bytes) -> bytes:
        """An error inside a stream; the stream ends after it."""
        return b"data: " + body + b"\n\n"


def usage(prompt_tokens: int, cached_tokens: int, output_tokens: int) -> dict[str, Any]:
    """OpenAI's usage object."""
    return {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": output_tokens,
        "total_tokens": prompt_tokens + output_tokens,
        "prompt_tokens_details": {"cached_tokens": cached_tokens},
    }


@lru_cache
def fingerprint(version: str, source: str, emulated: str | None = None) -> str:
    """A short name of what computes the answers, if anything does: same name, same numbers."""
    device = "" if emulated is None else f"-emulated-{emulated}"
    return f"hfx-{version}-{zlib.crc32(source.encode()):08x}{device}"
