"""What is sent: prompts of wanted lengths, prompts from files, what each was promised.

Lengths are tokens. Everything random comes from one `numpy` generator, so that a seed names a
workload.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from hfx.traces import BLOCK_TOKENS, Row

from .attainment import NO_TARGETS, Targets
from .words import WORDS


@dataclass(frozen=True, slots=True)
class Prompt:
    """One request to make. `prompt_tokens` is what was aimed for, None where nobody counted.

    `targets` is what its answer is judged by; the server learns of it only through `body`, which
    is merged into the request.
    """

    content: str | list[int]
    output_tokens: int
    prompt_tokens: int | None = None
    tier: str = ""
    targets: Targets = NO_TARGETS
    body: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class TokenPool:
    """What random prompts are drawn from: token ids the server knows, or else plain words.

    `source` says where the count of tokens comes from, for people.
    """

    token_ids: tuple[int, ...] = ()
    tokens_per_word: float = 1.0
    source: str = "plain words, one token each by assumption"

    @classmethod
    def of_words(cls, token_ids: Sequence[int], source: str) -> TokenPool:
        """The pool of a vocabulary, given its ids of `word_text()`."""
        return cls(tuple(sorted(set(token_ids))), len(token_ids) / len(WORDS), source)

    def draw(self, rng: np.random.Generator, tokens: int, *, as_text: bool) -> str | list[int]:
        """Random content of `tokens` tokens: exact as ids, near as text."""
        if self.token_ids and not as_text:
            return [int(token) for token in rng.choice(self.token_ids, tokens)]
        words = max(1, round(tokens / self.tokens_per_word))
        return " ".join(WORDS[i] for i in rng.integers(len(WORDS), size=words))


def word_text() -> str:
    """The text whose token ids make a pool."""
    return " " + " ".join(WORDS)


@dataclass(frozen=True, slots=True, kw_only=True)
class RandomLengths:
    """Uniform lengths within `range_ratio` of the means, as vLLM draws them.

    Raises:
        ValueError: a length below 1, or a ratio outside [0, 1).
    """

    input_len: int = 1024
    output_len: int = 128
    range_ratio: float = 0.0

    def __post_init__(self) -> None:
        for name in ("input_len", "output_len"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}: it must be at least 1 token")
        if not 0.0 <= self.range_ratio < 1.0:
            raise ValueError(f"range_ratio is {self.range_ratio}: it must be from 0 to below 1")

    def draw(self, rng: np.random.Generator, mean: int, count: int) -> list[int]:
        low = max(1, int(np.floor(mean * (1 - self.range_ratio))))
        high = max(low, int(np.ceil(mean * (1 + self.range_ratio))))
        return [int(length) for length in rng.integers(low, high + 1, size=count)]


def random_prompts(
    rng: np.random.Generator, count: int, lengths: RandomLengths, pool: TokenPool, *, as_text: bool
) -> list[Prompt]:
    """`count` prompts that share no prefix but by chance."""
    inputs = lengths.draw(rng, lengths.input_len, count)
    outputs = lengths.draw(rng, lengths.output_len, count)
    return [
        Prompt(pool.draw(rng, tokens, as_text=as_text), output, tokens)
        for tokens, output in zip(inputs, outputs, strict=True)
    ]


def read_prompts(path: Path, output_tokens: int) -> list[Prompt]:
    """Prompts of a JSON array or of JSON lines, in either of two forms.

    `{"prompt": text, "output_tokens": n}`, the second being optional, or ShareGPT's
    `{"conversations": [{"from": "human", "value": text}, ...]}`, of which the first message is
    taken. `output_tokens` is for rows that name none.

    Raises:
        ValueError: a row is neither; the message names the file and the row.
    """
    prompts = []
    for number, row in enumerate(_rows(path), start=1):
        text, wanted = _prompt_of(row), row.get("output_tokens") if isinstance(row, dict) else None
        if not isinstance(text, str) or not text.strip():
            raise ValueError(
                f"{path}, row {number}: found neither a 'prompt' text nor 'conversations' with a "
                "first 'value'"
            )
        if wanted is not None and (not isinstance(wanted, int) or wanted < 1):
            raise ValueError(
                f"{path}, row {number}: output_tokens is {wanted!r}: it must be 1 or more"
            )
        prompts.append(Prompt(text, wanted or output_tokens))
    if not prompts:
        raise ValueError(f"{path} holds no prompts")
    return prompts


def _rows(path: Path) -> list[Any]:
    raw = path.read_bytes()
    try:
        if raw.lstrip().startswith(b"["):
            return list(orjson.loads(raw))
        return [orjson.loads(line) for line in raw.splitlines() if line.strip()]
    except orjson.JSONDecodeError as error:
        raise ValueError(f"{path} is neither a JSON array nor JSON lines: {error}") from None


def _prompt_of(row: Any) -> Any:
    if not isinstance(row, dict):
        return None
    if "prompt" in row:
        return row["prompt"]
    turns = row.get("conversations") or row.get("conversation") or []
    first = turns[0] if isinstance(turns, list) and turns else {}
    return first.get("value") if isinstance(first, dict) else None


def take(prompts: Sequence[Prompt], count: int, rng: np.random.Generator) -> list[Prompt]:
    """`count` of the prompts in random order, again from the start where there are too few."""
    order = [int(i) for i in rng.permutation(len(prompts))]
    return [prompts[order[i % len(order)]] for i in range(count)]


def trace_prompts(
    rng: np.random.Generator, rows: Sequence[Row], pool: TokenPool, *, as_text: bool
) -> list[Prompt]:
    """A prompt a row; rows whose hash ids agree begin with the same text, as far as they agree."""
    seed = int(rng.integers(2**31))
    return [
        Prompt(_content(rng, row, pool, seed, as_text=as_text), row.output_tokens, row.input_tokens)
        for row in rows
    ]


def _content(
    rng: np.random.Generator, row: Row, pool: TokenPool, seed: int, *, as_text: bool
) -> str | list[int]:
    if not row.hash_ids:
        return pool.draw(rng, row.input_tokens, as_text=as_text)
    parts: list[Any] = []
    for i, hash_id in enumerate(row.hash_ids):
        tokens = min(BLOCK_TOKENS, row.input_tokens - i * BLOCK_TOKENS)
        if tokens <= 0:
            break
        parts.append(pool.draw(np.random.default_rng((seed, hash_id)), tokens, as_text=as_text))
    rest = row.input_tokens - len(parts) * BLOCK_TOKENS
    if rest > 0:  # a row may name fewer blocks than its length asks for
        parts.append(pool.draw(rng, rest, as_text=as_text))
    if isinstance(parts[0], str):
        return " ".join(parts)
    return [token for part in parts for token in part]
