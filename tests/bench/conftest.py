"""A server that answers as a test tells it to, for what a healthy server never does."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
from aiohttp import web


@dataclass
class ScriptedServer:
    """Answers every completion with `status` and `pieces`, a pause of `gap_s` between them.

    With `counts_words` its usage says so many tokens a word of the prompt.

    After `healthy_answers` of them, if that is set, every one is a 500.
    """

    pieces: list[bytes] = field(default_factory=list)
    status: int = 200
    gap_s: float = 0.0
    cuts_connection: bool = False
    not_ready_answers: int = 0
    healthy_answers: int | None = None
    counts_words: int | None = None
    vocabulary: list[int] = field(default_factory=list)
    bodies: list[dict[str, Any]] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    base_url: str = ""

    def say(self, *texts: str, usage: tuple[int, int] | None = None) -> None:
        """Make every answer these tokens, the last one finishing it, then usage and [DONE]."""
        reasons = [None] * (len(texts) - 1) + ["stop"]
        events: list[dict[str, Any]] = [
            {"choices": [{"index": 0, "text": text, "finish_reason": reason}]}
            for text, reason in zip(texts, reasons, strict=True)
        ]
        if usage:
            names = ("prompt_tokens", "completion_tokens")
            events.append({"choices": [], "usage": dict(zip(names, usage, strict=True))})
        self.pieces = [b"data: " + json.dumps(event).encode() + b"\n\n" for event in events]
        self.pieces.append(b"data: [DONE]\n\n")

    async def complete(self, request: web.Request) -> web.StreamResponse:
        self.bodies.append(await request.json())
        self.headers.append(dict(request.headers))
        if self.healthy_answers is not None and len(self.bodies) > self.healthy_answers:
            return web.Response(status=500, text="broken")
        response = web.StreamResponse(status=self.status)
        response.enable_chunked_encoding()
        await response.prepare(request)
        if self.counts_words is not None:
            words = len(self.bodies[-1]["prompt"].split())
            self.say("a", usage=(words * self.counts_words, 1))
        for piece in self.pieces:
            await response.write(piece)
            await asyncio.sleep(self.gap_s)
        if self.cuts_connection:
            assert request.transport is not None
            request.transport.abort()
        return response

    async def models(self, request: web.Request) -> web.Response:
        if self.not_ready_answers:
            self.not_ready_answers -= 1
            return web.Response(status=503)
        return web.json_response({"data": [{"id": "scripted"}]})

    async def tokenize(self, request: web.Request) -> web.Response:
        if not self.vocabulary:
            return web.Response(status=404)
        return web.json_response({"tokens": self.vocabulary})

    def application(self) -> web.Application:
        app = web.Application()
        app.router.add_post("/v1/completions", self.complete)
        app.router.add_post("/v1/chat/completions", self.complete)
        app.router.add_get("/v1/models", self.models)
        app.router.add_post("/tokenize", self.tokenize)
        return app


@pytest.fixture
def scripted() -> Iterator[ScriptedServer]:
    server = ScriptedServer()
    loop = asyncio.new_event_loop()
    runner = web.AppRunner(server.application(), shutdown_timeout=1.0)
    loop.run_until_complete(runner.setup())
    site = web.TCPSite(runner, "127.0.0.1", 0)
    loop.run_until_complete(site.start())
    host, port = runner.addresses[0][:2]
    server.base_url = f"http://{host}:{port}"
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    yield server
    asyncio.run_coroutine_threadsafe(runner.cleanup(), loop).result(timeout=10)
    loop.call_soon_threadsafe(loop.stop)
    thread.join(timeout=10)
    loop.close()
