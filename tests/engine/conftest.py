"""Engines over an executor without a model, small enough to check by hand.

The executor's next token is a hash of every token that it finds in the cache: it stores token ids
where a model stores keys and values, and reads them back through the block table. A wrong table, a
lost block, a shared block that was overwritten, a slot that nobody wrote: each changes the text or
fails.
"""

from collections.abc import Callable, Sequence
from hashlib import blake2b

import numpy as np
import pytest

from hfx.cache import BlockPool
from hfx.clock import VirtualClock
from hfx.engine import Engine, Sampled, StepBatch, StepOutput, TokenLogprob
from hfx.request import Request, Sampling
from hfx.scheduler import FirstComeFirstServed

MakeEngine = Callable[..., Engine]
MakeRequest = Callable[..., Request]

VOCABULARY = 90
POISON = -1


def next_token(tokens: list[int], vocabulary: int = VOCABULARY) -> int:
    digest = blake2b(np.array(tokens, dtype=np.int64).tobytes(), digest_size=8).digest()
    return int.from_bytes(digest, "little") % vocabulary


def reference_output(prompt: list[int], count: int, vocabulary: int = VOCABULARY) -> list[int]:
    """What a request alone would get, computed without any cache."""
    tokens = list(prompt)
    for _ in range(count):
        tokens.append(next_token(tokens, vocabulary))
    return tokens[len(prompt) :]


class PagedEcho:
    """Implements `hfx.engine.Executor`. `fail_steps` and `bad_tokens` make steps and rows fail."""

    def __init__(self, blocks: int, block_tokens: int, vocabulary: int = VOCABULARY) -> None:
        self.slots = np.full((blocks, block_tokens), POISON, dtype=np.int64)
        self.vocabulary = vocabulary
        self.fail_steps: set[int] = set()
        self.bad_tokens: set[int] = set()
        self.step = 0

    def execute(self, batch: StepBatch) -> StepOutput:
        self.step += 1
        if self.step in self.fail_steps:
            raise RuntimeError(f"step {self.step} was told to fail")
        wanted = {int(row): position for position, row in enumerate(batch.sampled_rows_R)}
        sampled: list[Sampled | None] = [None] * len(wanted)
        self._write(batch)
        for index in range(len(batch.context_lens_S)):
            last = int(batch.query_starts[index + 1]) - 1
            if last in wanted:
                sampled[wanted[last]] = self._sample(self._read(batch, index))
        return StepOutput([row for row in sampled if row is not None])

    def _sample(self, tokens: list[int]) -> Sampled:
        token = next_token(tokens, self.vocabulary)
        if token in self.bad_tokens:
            return Sampled(-1, error="this row was told to fail")
        return Sampled(token, TokenLogprob(token, -0.5, 1))

    def _write(self, batch: StepBatch) -> None:
        for index, context in enumerate(batch.context_lens_S):
            first, end = batch.query_starts[index : index + 2]
            for row, position in zip(
                range(first, end), range(context - (end - first), context), strict=True
            ):
                block, offset = divmod(position, self.slots.shape[1])
                self.slots[batch.table_SC[index, block], offset] = batch.token_ids_T[row]

    def _read(self, batch: StepBatch, index: int) -> list[int]:
        table = batch.table_SC[index]
        context = int(batch.context_lens_S[index])
        tokens = self.slots[table].reshape(-1)[:context]
        assert (tokens != POISON).all(), "a slot was read that nobody wrote"
        return [int(token) for token in tokens]


def letters(ids: Sequence[int], skip_special_tokens: bool = True) -> str:
    """One printable character per token."""
    return "".join(chr(33 + token) for token in ids)


@pytest.fixture(scope="session")
def make_engine() -> MakeEngine:
    def make(
        blocks: int = 16,
        block_tokens: int = 4,
        max_model_len: int = 40,
        prefix_caching: bool = True,
        step_tokens: int = 16,
        running: int = 8,
        **options: object,
    ) -> Engine:
        options.setdefault("clock", VirtualClock(1.0))
        return Engine(
            PagedEcho(blocks, block_tokens),
            FirstComeFirstServed(max_step_tokens=step_tokens, max_running=running),
            BlockPool(blocks, block_tokens, prefix_caching=prefix_caching),
            letters,
            vocabulary=VOCABULARY,
            max_model_len=max_model_len,
            **options,
        )

    return make


@pytest.fixture(scope="session")
def make_request() -> MakeRequest:
    def make(id: str = "r", prompt: Sequence[int] = (1, 2, 3), **sampling: object) -> Request:
        sampling.setdefault("max_tokens", 6)
        return Request(id=id, prompt_token_ids=tuple(prompt), sampling=Sampling(**sampling))

    return make


@pytest.fixture(scope="session")
def alone() -> Callable[..., list[int]]:
    """`reference_output`: what a request alone would get."""
    return reference_output
