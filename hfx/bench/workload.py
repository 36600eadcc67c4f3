"""What is sent and when: prompts of wanted lengths, prompts from files, arrival times.

Lengths are tokens, times seconds from the start of the run. Everything random comes from one
`numpy` generator, so that a seed names a workload.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import orjson

from .words import WORDS

RampUp = Literal["linear", "exponential"]


@dataclass(frozen=True, slots=True)
class Prompt:
    """One request to make. `prompt_tokens` is what was aimed for, None where nobody counted."""

    content: str | list[int]
    output_tokens: int
    prompt_tokens: int | None = None


@dataclass(frozen=True, slots=True)
class TokenPool:
    """What random prompts are drawn from: token ids the server knows, or else plain words."""

    token_ids: tuple[int, ...] = ()
    tokens_per_word: float = 1.0

    @classmethod
    def of_words(cls, token_ids: Sequence[int]) -> TokenPool:
        """The pool of a vocabulary, given its ids of `word_text()`."""
        return cls(tuple(sorted(set(token_ids))), len(token_ids) / len(WORDS))

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


def arrival_times_s(
    rng: np.random.Generator, rates: Iterable[float], burstiness: float = 1.0
) -> list[float]:
    """When each request arrives; `rates` holds the requests per second that hold before each.

    Gaps are gamma distributed with shape `burstiness`: 1 is a Poisson process, below 1 comes in
    bursts (the gaps' coefficient of variation is 1 / sqrt(burstiness)), above 1 is more even.
    As vLLM does, the times are stretched so that the last falls where the rates say. An infinite
    rate is everything at once.

    Raises:
        ValueError: a rate or the burstiness is not above 0.
    """
    wanted = np.asarray(list(rates), dtype=float)
    if not burstiness > 0:
        raise ValueError(f"burstiness is {burstiness}: it must be above 0")
    if not (wanted > 0).all():
        raise ValueError(f"request rate is {wanted.min()}: it must be above 0, or inf")
    means = 1.0 / wanted
    times = np.cumsum(rng.gamma(burstiness, means / burstiness))
    if len(times) and times[-1] > 0:
        times *= means.sum() / times[-1]
    return [float(time) for time in times]


def ramp(strategy: RampUp, start_rps: float, end_rps: float, count: int) -> list[float]:
    """The rate before each of `count` requests, from `start_rps` to `end_rps`.

    Raises:
        ValueError: a rate is not above 0.
    """
    if not (start_rps > 0 and end_rps > 0):
        raise ValueError(f"ramp-up from {start_rps} to {end_rps} requests/s: both must be above 0")
    space = np.linspace if strategy == "linear" else np.geomspace
    return [float(rate) for rate in space(start_rps, end_rps, count)]
