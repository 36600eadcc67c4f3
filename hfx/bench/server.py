"""What a server says about itself before it is measured: readiness, models, how it tokenises."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import aiohttp
import tokenizers

from .client import Target, join_url, send
from .outcome import Outcome
from .words import WORDS
from .workload import Prompt, TokenPool, word_text

RETRY_S = 0.5
STARTING = 503  # what a server answers while it loads


class Unusable(Exception):
    """The server, the model or the input can't be used; the message is one line for a person."""


@dataclass(frozen=True, slots=True)
class Listing:
    """The ids that a server serves, and the device that it says it only emulates."""

    ids: tuple[str, ...]
    emulated: str | None = None


async def models(
    session: aiohttp.ClientSession, base_url: str, headers: Mapping[str, str], timeout_s: float
) -> Listing:
    """What the server says it serves, waiting up to `timeout_s` for it to answer.

    Raises:
        Unusable: it can't be reached, stays unready, or refuses.
    """
    url, deadline_s = join_url(base_url, "/v1/models"), time.monotonic() + timeout_s
    while True:
        try:
            async with session.get(url, headers=headers) as response:
                if response.status == 200:
                    listed = await response.json(content_type=None)
                    return _listing(listed["data"])
                problem = f"{url} answers HTTP {response.status}"
                can_wait = response.status == STARTING
        except (aiohttp.ClientError, OSError) as error:
            reason = error.os_error if isinstance(error, aiohttp.ClientConnectorError) else error
            problem, can_wait = f"can't reach {base_url}: {reason}", True
        except (KeyError, TypeError, ValueError):
            raise Unusable(f"{url} answers no list of models: is it an OpenAI server?") from None
        if not can_wait or time.monotonic() >= deadline_s:
            waiting = "; give it time with --ready-check-timeout-sec" if can_wait else ""
            raise Unusable(problem + waiting)
        await asyncio.sleep(RETRY_S)


def _listing(entries: Sequence[Mapping[str, object]]) -> Listing:
    emulated = [entry["emulated"] for entry in entries if entry.get("emulated")]
    ids = tuple(str(entry["id"]) for entry in entries)
    return Listing(ids, str(emulated[0]) if emulated else None)


async def try_once(session: aiohttp.ClientSession, target: Target, text: str = "Hello") -> Outcome:
    """One short request, so that a wrong model or option is told before the load starts.

    Raises:
        Unusable: it failed; the message is the server's.
    """
    outcome = await send(session, target, Prompt(text, 1))
    if not outcome.success:
        raise Unusable(f"a first request to {target.url} failed: {outcome.error}")
    return outcome


async def served_pool(session: aiohttp.ClientSession, target: Target) -> TokenPool:
    """The pool of the server's own vocabulary where it offers `/tokenize`.

    Else plain words, as many as one request's `usage` says make a token; a server that reports no
    usage leaves one token a word.
    """
    url = join_url(target.base_url, "/tokenize")
    vllm = {"model": target.model, "prompt": word_text(), "add_special_tokens": False}
    llama_cpp = {"content": word_text()}
    for body in (vllm, llama_cpp):
        try:
            async with session.post(url, json=body, headers=target.headers) as response:
                answer = await response.json(content_type=None)
                token_ids = answer["tokens"] if response.status == 200 else []
        except (aiohttp.ClientError, OSError, KeyError, TypeError, ValueError):
            continue
        if token_ids and all(isinstance(token, int) for token in token_ids):
            return TokenPool.of_words(token_ids, "token ids of the server's /tokenize")
    return await _counted_pool(session, target)


async def _counted_pool(session: aiohttp.ClientSession, target: Target) -> TokenPool:
    """Words, measured by what the server counts for them beyond one word alone."""
    counts = []
    for text in (WORDS[0], word_text()):
        outcome = await try_once(session, target, text)
        if outcome.prompt_tokens is None:
            return TokenPool()
        counts.append(outcome.prompt_tokens)
    per_word = (counts[1] - counts[0]) / (len(WORDS) - 1)
    if per_word <= 0:
        return TokenPool()
    return TokenPool((), per_word, f"plain words, {per_word:.3f} tokens each by the server's usage")


def local_pool(name: str) -> TokenPool:
    """The pool of a tokenizer: a `tokenizer.json`, a folder that holds one, or a Hub id.

    Raises:
        Unusable: there is none by that name.
    """
    path = Path(name) / "tokenizer.json" if Path(name).is_dir() else Path(name)
    try:
        if path.exists():
            tokenizer = tokenizers.Tokenizer.from_file(str(path))
        else:
            tokenizer = tokenizers.Tokenizer.from_pretrained(name)
    except Exception as error:  # tokenizers raises bare Exception
        reason = " ".join(str(error).split())
        raise Unusable(f"--tokenizer {name}: no tokenizer.json could be read: {reason}") from None
    return TokenPool.of_words(
        tokenizer.encode(word_text(), add_special_tokens=False).ids, f"token ids of {name}"
    )
