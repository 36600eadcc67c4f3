"""One HTTP answer of generated text: runs the generations and writes them, whole or as a stream.

The work ends when the client goes away. A stream's status is sent once the engine has taken the
request; what goes wrong later is an error event inside the stream.
"""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import orjson
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from hfx.engine.delta import Delta
from hfx.engine.errors import (
    EngineDead,
    EngineDraining,
    EngineError,
    EngineFull,
    EngineNotReady,
    Infeasible,
)
from hfx.engine.service import Service
from hfx.request import FinishReason, Request

from .errors import ApiError
from .form import Choice, Chunks, Form, Head, usage
from .lifecycle import Lifecycle, draining
from .metrics import EngineMetrics
from .outcome import measured, worst
from .overload import expired, infeasible, overloaded
from .promises import Promise
from .streams import Deltas
from .tier_metrics import TierMetrics

_STREAM_HEADERS = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
    (b"x-accel-buffering", b"no"),  # nginx holds streams back otherwise
]


@dataclass(frozen=True, slots=True)
class Ask:
    """One HTTP request, converted: what to generate and how to write it down."""

    requests: tuple[Request, ...]
    echoes: tuple[str, ...]  # text in front of each choice
    choices_per_prompt: int
    head: Head
    form: Form
    stream: bool
    promise: Promise
    tells_metrics: bool  # whether the answer holds a `metrics` object


class Generation(Response):
    """The response to a completion request.

    `prepare` converts it, which may take a while, so that it runs once the client is watched.
    """

    def __init__(
        self,
        prepare: Callable[[], Awaitable[Ask]],
        engine: Service,
        metrics: EngineMetrics,
        tiers: TierMetrics,
        lifecycle: Lifecycle,
        keep_alive_s: float,
    ) -> None:
        super().__init__()
        self._prepare = prepare
        self._engine = engine
        self._metrics = metrics
        self._tiers = tiers
        self._lifecycle = lifecycle
        self._keep_alive_s = keep_alive_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with self._lifecycle:
            await until_disconnect(receive, self._run(scope, receive, send))

    async def _run(self, scope: Scope, receive: Receive, send: Send) -> None:
        ask = await self._prepare()
        with await self._submitted(ask) as deltas:
            first = ask.requests[0]
            self._metrics.on_request(ask.choices_per_prompt, first.sampling.max_tokens)
            if ask.stream:
                await self._stream(ask, deltas, send)
                return
            try:
                body = await self._whole(ask, deltas)
            except EngineError as error:
                raise refusal(error, ask.promise) from error
        response = Response(body, media_type="application/json")
        await response(scope, receive, send)

    async def _submitted(self, ask: Ask) -> Deltas:
        try:
            return await Deltas.of(self._engine, ask.requests, foresee=ask.tells_metrics)
        except (EngineError, ValueError) as error:
            refused = refusal(error, ask.promise)
            if refused.status == 429:
                self._tiers.on_refusal(ask.promise.objective, refused.kind)
            raise refused from error

    async def _whole(self, ask: Ask, deltas: Deltas) -> bytes:
        choices = [
            Choice(place, request.prompt_token_ids, echo)
            for place, (request, echo) in enumerate(zip(ask.requests, ask.echoes, strict=True))
        ]
        async for place, delta in deltas:
            self._metrics.on_tokens(delta, choices[place].last)
            choices[place].add(delta)
            if (failure := self._failure(ask, delta)) is not None:
                raise failure
        document = ask.head.document(ask.form.whole_object)
        document |= ask.form.head_extra([request.prompt_token_ids for request in ask.requests])
        document["choices"] = [ask.form.whole(choice) for choice in choices]
        ends = [choice.last for choice in choices if choice.last is not None]
        document["usage"] = total_usage(ask, ends)
        if ask.tells_metrics:
            document["metrics"] = measured(worst(ends))
        return orjson.dumps(document)

    async def _stream(self, ask: Ask, deltas: Deltas, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": _STREAM_HEADERS})
        writer = _EventWriter(send)
        beat = asyncio.ensure_future(writer.keep_alive(self._keep_alive_s))
        try:
            await self._events(ask, deltas, writer)
        except EngineError as error:
            await writer.write(Chunks.error(refusal(error, ask.promise).body))
        except ApiError as error:
            await writer.write(Chunks.error(error.body))
        finally:
            beat.cancel()
        await writer.end(Chunks.DONE)

    async def _events(self, ask: Ask, deltas: Deltas, writer: "_EventWriter") -> None:
        chunks, form = Chunks(ask.head, ask.form.chunk_object), ask.form
        last: list[Delta | None] = [None] * len(ask.requests)
        async for place, delta in deltas:
            before, last[place] = last[place], delta
            self._metrics.on_tokens(delta, before)
            data = b"" if before else self._opening(ask, chunks, place)
            if (piece := form.piece(place, delta)) is not None:
                data += chunks.choice(piece)
            if (failure := self._failure(ask, delta)) is not None:
                raise failure
            if delta.finish_reason is not None:
                told = {"metrics": measured(delta)} if ask.tells_metrics else None
                data += chunks.choice(form.closing(place, delta), told)
            if data:
                await writer.write(data)
        if ask.head.usage:
            ends = [delta for delta in last if delta is not None]
            await writer.write(chunks.usage(total_usage(ask, ends)))

    @staticmethod
    def _opening(ask: Ask, chunks: Chunks, place: int) -> bytes:
        prompt = ask.requests[place].prompt_token_ids
        choice = ask.form.opening(place, ask.echoes[place], prompt)
        return b"" if choice is None else chunks.choice(choice, ask.form.head_extra([prompt]))

    def _failure(self, ask: Ask, delta: Delta) -> ApiError | None:
        """The error that a delta ends with; None while all is well."""
        if delta.finish_reason is FinishReason.EXPIRED:
            return expired(ask.promise, delta)
        if delta.finish_reason is FinishReason.ERROR:
            return ApiError(500, delta.error or "the step that computed this request failed")
        if delta.finish_reason is FinishReason.ABORT:
            if self._lifecycle.state == "draining":
                return draining()
            return ApiError(503, delta.error or "the request was aborted", code="aborted")
        return None


def refusal(error: EngineError | ValueError, promise: Promise) -> ApiError:
    """What an engine's refusal or failure is in HTTP."""
    if isinstance(error, EngineFull):
        return overloaded(error)
    if isinstance(error, Infeasible):
        return infeasible(error.refused, promise)
    if isinstance(error, EngineDraining):
        return draining()
    if isinstance(error, EngineNotReady):
        retry_s = error.retry_after_s
        return ApiError(503, str(error), code="no_replica", retry_after_s=retry_s)
    if isinstance(error, EngineError):
        is_dead = isinstance(error, EngineDead)
        return ApiError(500, str(error), code="engine_dead" if is_dead else "engine_error")
    return ApiError(400, str(error), code="invalid")


class _EventWriter:
    """Writes events, and a comment where there was none for a while."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self._now_s = asyncio.get_running_loop().time
        self._written_s = self._now_s()

    async def write(self, data: bytes) -> None:
        self._written_s = self._now_s()
        await self._send({"type": "http.response.body", "body": data, "more_body": True})

    async def end(self, data: bytes) -> None:
        await self._send({"type": "http.response.body", "body": data, "more_body": False})

    async def keep_alive(self, interval_s: float) -> None:
        """Send comments until cancelled; proxies close connections that look dead."""
        while interval_s:
            rest_s = self._written_s + interval_s - self._now_s()
            if rest_s > 0:
                await asyncio.sleep(rest_s)
            else:
                await self.write(Chunks.KEEP_ALIVE)


def total_usage(ask: Ask, ends: list[Delta]) -> dict[str, Any]:
    """Usage of all choices; a prompt counts once however many choices it has."""
    prompts = ends[:: ask.choices_per_prompt]
    return usage(
        sum(delta.prompt_tokens for delta in prompts),
        sum(delta.cached_tokens for delta in prompts),
        sum(delta.output_tokens for delta in ends),
    )


async def until_disconnect(receive: Receive, work: Coroutine[Any, Any, None]) -> None:
    """Run `work`, and cancel it if the client goes away. The request's body has been read."""
    task = asyncio.ensure_future(work)
    watcher = asyncio.ensure_future(_disconnected(receive))
    try:
        await asyncio.wait((task, watcher), return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            await task
    finally:
        watcher.cancel()
        task.cancel()
        with suppress(asyncio.CancelledError, Exception):
            await task  # so that its blocks are free before the connection is


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
