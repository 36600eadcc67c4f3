"""Sends one request to an OpenAI-compatible server and times what comes back.

Times are seconds on `time.perf_counter`. As vLLM defines them: TTFT is send to first token, ITL the
gap between two chunks that carry output, latency is send to the last chunk with a choice.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import aiohttp
import orjson

from .outcome import Outcome
from .sse import EventParser
from .workload import Prompt

Backend = Literal["openai", "openai-chat"]
ENDPOINTS: dict[Backend, str] = {
    "openai": "/v1/completions",
    "openai-chat": "/v1/chat/completions",
}
REQUEST_TIMEOUT = aiohttp.ClientTimeout(total=6 * 3600, sock_connect=60)
ERROR_CHARACTERS = 500  # of an error's text: enough for a message, not for a web page


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """Where requests go and what every one of them carries."""

    base_url: str
    model: str
    backend: Backend = "openai"
    endpoint: str = ""  # empty: the backend's usual one
    ignore_eos: bool = False
    headers: Mapping[str, str] = field(default_factory=dict)
    extra_body: Mapping[str, Any] = field(default_factory=dict)
    emulated: str | None = None  # the device that the server says it only emulates

    @property
    def url(self) -> str:
        return join_url(self.base_url, self.endpoint or ENDPOINTS[self.backend])

    def body(self, prompt: Prompt) -> dict[str, Any]:
        """The JSON of one request; `extra_body` wins over it, the prompt's own body over both."""
        body: dict[str, Any] = {
            "model": self.model,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        if self.backend == "openai":
            body |= {"prompt": prompt.content, "max_tokens": prompt.output_tokens}
        else:
            message = {"role": "user", "content": prompt.content}
            body |= {"messages": [message], "max_completion_tokens": prompt.output_tokens}
        if self.ignore_eos:
            body["ignore_eos"] = True
        return body | dict(self.extra_body) | dict(prompt.body)


def join_url(base_url: str, path: str) -> str:
    """`base_url` with `path` behind it, whether or not the base already ends with `/v1`."""
    base = base_url.rstrip("/")
    if path.startswith("/v1/"):
        base = base.removesuffix("/v1")
    return base + path


async def send(
    session: aiohttp.ClientSession, target: Target, prompt: Prompt, scheduled_s: float | None = None
) -> Outcome:
    """Send one streamed request and read it to its end. Never raises for what a server does."""
    reply = _Reply(time.perf_counter(), target.backend)
    try:
        async with session.post(
            target.url, data=orjson.dumps(target.body(prompt)), headers=_headers(target)
        ) as response:
            reply.status = response.status
            if response.status != 200:
                reply.error = await _refusal(response)
            else:
                await reply.read(response)
    except (aiohttp.ClientError, OSError, TimeoutError) as error:
        reply.error = f"{type(error).__name__}: {error}".rstrip(": ")
    return reply.outcome(scheduled_s)


def _headers(target: Target) -> dict[str, str]:
    return {"Content-Type": "application/json", "Accept": "text/event-stream", **target.headers}


async def _refusal(response: aiohttp.ClientResponse) -> str:
    """`HTTP <status>` and the server's own message, from an OpenAI error body or plain text."""
    raw = await response.read()
    try:
        text = _error_text(orjson.loads(raw))
    except orjson.JSONDecodeError:
        text = raw.decode("utf-8", errors="replace")
    message = " ".join(text.split())[:ERROR_CHARACTERS]
    return f"HTTP {response.status}: {message or response.reason}"


def _error_text(body: Any) -> str:
    """The message of an OpenAI error object, wherever a server nests it."""
    if isinstance(body, dict):
        for name in ("error", "message", "detail"):
            if body.get(name):
                return _error_text(body[name])
    return body if isinstance(body, str) else orjson.dumps(body).decode()


class _Reply:
    """A streamed answer while it is read."""

    def __init__(self, start_s: float, backend: Backend) -> None:
        self.start_s = start_s
        self.backend = backend
        self.error = ""
        self.status: int | None = None
        self.metrics: dict[str, Any] = {}
        self.first_s: float | None = None
        self.last_s = start_s
        self.itls_s: list[float] = []
        self.texts: list[str] = []
        self.prompt_tokens: int | None = None
        self.output_tokens: int | None = None
        self.is_finished = False
        self._is_over = False  # [DONE], or an error: nothing after it counts

    async def read(self, response: aiohttp.ClientResponse) -> None:
        """Take in events as they arrive until the stream is over; what fails is in `error`."""
        parser = EventParser()
        async for chunk in response.content.iter_any():
            now_s = time.perf_counter()
            for event in parser.feed(chunk):
                self._take(event.data, event.type, now_s)
            if self._is_over:
                return
        if not self.is_finished:
            self.error = "the stream ended before a finish_reason or [DONE]"

    def _take(self, data: str, event_type: str, now_s: float) -> None:
        if self._is_over:
            return
        if data == "[DONE]":
            self._is_over = self.is_finished = True
            return
        try:
            chunk = orjson.loads(data)
        except orjson.JSONDecodeError:
            return self._fail(f"malformed event: {data}")
        if not isinstance(chunk, dict):
            return self._fail(f"malformed event: {data}")
        if event_type == "error" or chunk.get("error"):
            return self._fail(f"error event: {_error_text(chunk)}")
        try:
            self._take_chunk(chunk, now_s)
        except (AttributeError, IndexError, KeyError, TypeError):
            self._fail(f"malformed event: {data}")

    def _fail(self, message: str) -> None:
        self.error = message[:ERROR_CHARACTERS]
        self._is_over = True

    def _take_chunk(self, chunk: dict[str, Any], now_s: float) -> None:
        if usage := chunk.get("usage"):
            self.prompt_tokens = usage.get("prompt_tokens")
            self.output_tokens = usage.get("completion_tokens")
        if isinstance(metrics := chunk.get("metrics"), dict):
            self.metrics = metrics
        if not (choices := chunk.get("choices")):
            return
        choice = choices[0]
        text = self._text(choice)
        if self._carries_output(choice, text):
            if self.first_s is None:
                self.first_s = now_s
            else:
                self.itls_s.append(now_s - self.last_s)
            self.texts.append(text)
            self.last_s = now_s
        if choice.get("finish_reason"):
            self.is_finished = True
            self.first_s = self.first_s or now_s
            self.last_s = now_s

    def _text(self, choice: dict[str, Any]) -> str:
        if self.backend == "openai":
            parts = [choice.get("text")]
        else:
            delta = choice.get("delta") or {}
            parts = [delta.get("reasoning_content") or delta.get("reasoning"), delta.get("content")]
        return "".join(part or "" for part in parts)

    def _carries_output(self, choice: dict[str, Any], text: str) -> bool:
        """Whether a token came with this chunk.

        A token may have no text of its own (half a character, a special token), so an empty chunk
        counts unless it only opens a chat message with its role or only closes the answer.
        """
        if text or (choice.get("delta") or {}).get("tool_calls"):
            return True
        opens = "role" in (choice.get("delta") or {})
        return not opens and not choice.get("finish_reason")

    def outcome(self, scheduled_s: float | None) -> Outcome:
        """What came of the request, once it was read; `scheduled_s` is None in a closed loop."""
        error = self.error
        if not error and self.first_s is None:
            error = "the stream ended without a token"
        return Outcome(
            success=not error,
            start_s=self.start_s,
            end_s=time.perf_counter(),
            scheduled_s=self.start_s if scheduled_s is None else scheduled_s,
            error=error,
            status=self.status,
            ttft_s=(self.first_s or self.start_s) - self.start_s,
            latency_s=self.last_s - self.start_s,
            itls_s=tuple(self.itls_s),
            prompt_tokens=self.prompt_tokens,
            output_tokens=self.output_tokens,
            text="".join(self.texts),
            metrics=self.metrics,
        )
