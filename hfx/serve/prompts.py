"""Prompts as token ids: chat templates and tokenisation, in a thread of their own when long.

One thread, so that a burst of long prompts takes one core from the model and not all.
"""

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from typing import Protocol, TypeVar

from . import convert
from .convert import Served, Template
from .protocol import ChatCompletionRequest, ChatMessage, CompletionRequest, Prompt, TokenizeRequest

LARGE_CHARACTERS = 8192  # about 2 ms of tokenising: what an event loop may lose without notice
# A prompt is refused untokenised if its tokens would have to be this many times longer than the
# vocabulary's longest: normalisation shortens text, but not by that much.
HOPELESS = 4

T = TypeVar("T")


class Tokenizer(Protocol):
    """What serving needs of a tokenizer."""

    @property
    def vocab_size(self) -> int: ...
    def encode(self, text: str, add_special_tokens: bool = True) -> list[int]: ...
    def decode(self, ids: Sequence[int], skip_special_tokens: bool = True) -> str: ...
    def token_text(self, token_id: int) -> str: ...
    def token_bytes(self, token_id: int) -> bytes: ...


class Prompts:
    """Turns request bodies into checked prompt tokens of one model."""

    def __init__(self, tokenizer: Tokenizer, template: Template | None, served: Served) -> None:
        self._tokenizer = tokenizer
        self._template = template
        self._served = served
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="hfx-tokenize")

    async def chat(self, body: ChatCompletionRequest) -> tuple[int, ...]:
        """The tokens of a conversation."""
        tokens = await self.conversation(body.messages, body)
        return self._fitted(tokens, "messages", body.truncate_prompt_tokens)

    async def conversation(
        self, messages: Sequence[ChatMessage], body: ChatCompletionRequest | TokenizeRequest
    ) -> Sequence[int]:
        """The tokens of a conversation, whatever their number."""

        def tokens() -> list[int]:
            text = convert.render(
                self._template,
                convert.conversation(messages),
                opens=body.add_generation_prompt,
                continues=body.continue_final_message,
                variables=body.chat_template_kwargs,
            )
            self._check_hope(text, "messages", body)
            return self._tokenizer.encode(text, add_special_tokens=False)

        return await self._run(sum(map(_characters, messages)), tokens)

    async def texts(self, body: CompletionRequest) -> list[tuple[tuple[int, ...], str]]:
        """The tokens of each prompt, and its text if it is to be echoed."""
        return await self._run(
            sum(map(len, body.prompt)),
            lambda: [self._prompt(prompt, body) for prompt in body.prompt],
        )

    async def text(self, prompt: str, body: TokenizeRequest) -> Sequence[int]:
        """The tokens of a text, whatever their number."""
        return await self._run(len(prompt), lambda: self._encoded(prompt, body))

    async def detokenized(self, tokens: Sequence[int]) -> str:
        """The text of tokens, special ones included."""
        convert.check_tokens("tokens", tokens, self._served)
        decode = self._tokenizer.decode
        return await self._run(len(tokens), lambda: decode(tokens, skip_special_tokens=False))

    async def _run(self, size: int, work: Callable[[], T]) -> T:
        if size < LARGE_CHARACTERS:
            return work()
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)

    def _fitted(self, tokens: Sequence[int], field: str, keep: int | None) -> tuple[int, ...]:
        return convert.fitted(tokens, self._served, field=field, keep=keep)

    def _prompt(self, prompt: Prompt, body: CompletionRequest) -> tuple[tuple[int, ...], str]:
        tokens = self._encoded(prompt, body)
        kept = self._fitted(tokens, "prompt", body.truncate_prompt_tokens)
        return kept, self._echo(prompt, kept, len(tokens)) if body.echo else ""

    def _encoded(self, prompt: Prompt, body: CompletionRequest | TokenizeRequest) -> Sequence[int]:
        if not isinstance(prompt, str):
            return prompt
        self._check_hope(prompt, "prompt", body)
        special = body.add_special_tokens is not False
        return self._tokenizer.encode(prompt, add_special_tokens=special)

    def _echo(self, prompt: Prompt, kept: tuple[int, ...], tokens: int) -> str:
        if isinstance(prompt, str) and len(kept) == tokens:
            return prompt
        return self._tokenizer.decode(kept, skip_special_tokens=False)

    def _check_hope(self, text: str, field: str, body: object) -> None:
        """Refuse before tokenising what can't fit by far."""
        is_long = len(text) > max(LARGE_CHARACTERS, self._served.max_model_len * HOPELESS)
        if not is_long or getattr(body, "truncate_prompt_tokens", None) is not None:
            return
        least = len(text) // (self._longest_bytes * HOPELESS)
        if least >= self._served.max_model_len:
            raise convert.too_long(field, f"at least {least}", self._served)

    @cached_property
    def _longest_bytes(self) -> int:
        token_bytes = self._tokenizer.token_bytes
        return max(len(token_bytes(token)) for token in range(self._tokenizer.vocab_size))


def _characters(message: ChatMessage) -> int:
    """About how much text a message holds; a part counts as much as a page."""
    content = message.content
    if isinstance(content, list):
        return 1000 * len(content)
    return len(content) if isinstance(content, str) else 0
