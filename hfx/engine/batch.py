"""One step as arrays: which tokens of which sequences, where their cache lies, what to sample.

S sequences, T new tokens packed end to end, C columns of the block table, R sampled rows. Host
arrays only, in the form of `hfx.kernels.RaggedBatch`; nothing here imports torch.
"""

from collections.abc import Callable
from collections.abc import Sequence as Sequence_
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from hfx.request import Mix

from .delta import TokenLogprob
from .draw import Draw
from .errors import EngineDead
from .sequence import Sequence


@dataclass(frozen=True, slots=True)
class StepBatch:
    """What an executor computes in one step.

    `context_lens_S` counts tokens in the cache once the step is done, new ones included.
    `sampled_rows_R` index T: the last token of each sequence whose next token is wanted, and
    `draws` says how to choose it.
    """

    token_ids_T: NDArray[np.int64]
    query_starts: NDArray[np.int32]
    context_lens_S: NDArray[np.int32]
    table_SC: NDArray[np.int32]
    sampled_rows_R: NDArray[np.int64]
    draws: tuple[Draw, ...]
    mix: Mix


@dataclass(frozen=True, slots=True)
class Sampled:
    """The token chosen for one row, or why none could be (`error`)."""

    token_id: int
    logprob: TokenLogprob | None = None
    error: str | None = None


@dataclass(frozen=True, slots=True)
class StepOutput:
    """One `Sampled` per row that the batch wanted, in its order."""

    sampled: Sequence_[Sampled]


class Executor(Protocol):
    """Computes steps: a model on a device, or something that stands for one."""

    def execute(self, batch: StepBatch) -> StepOutput:
        """Write the new tokens' keys and values, and choose the next tokens.

        Raises:
            Exception: the step failed as a whole; what it wrote must not be relied upon.
        """
        ...


class Company(Protocol):
    """Other processes that compute an engine's steps together with it."""

    @property
    def pids(self) -> tuple[int, ...]:
        """Their process ids; from any thread."""
        ...

    @property
    def lost(self) -> EngineDead | None:
        """Why they can't any more; from any thread."""
        ...

    def on_loss(self, tell: Callable[[EngineDead], None]) -> None:
        """Have it told as soon as they can't, in a thread of its own; from any thread."""
        ...

    def close(self) -> None:
        """End them; from any thread, and more than once."""
        ...


class BlockTable:
    """The block ids of running sequences, one persistent row each, so that a step copies rows."""

    def __init__(self, rows: int, columns: int) -> None:
        self._ids = np.zeros((rows, columns), dtype=np.int32)
        self._free = list(range(rows - 1, -1, -1))

    def open_row(self, blocks: Sequence_[int]) -> int:
        """A row for a sequence that starts with these blocks."""
        if not self._free:
            self._widen_rows()
        row = self._free.pop()
        self.append(row, 0, blocks)
        return row

    def append(self, row: int, start: int, blocks: Sequence_[int]) -> None:
        """Write blocks into a row from column `start`."""
        self._ids[row, start : start + len(blocks)] = blocks

    def close_row(self, row: int) -> None:
        """Give a row back."""
        self._free.append(row)

    def rows(self, rows: Sequence_[int], columns: int) -> NDArray[np.int32]:
        """A copy [S, columns] of some rows; columns past a sequence's blocks hold stale ids."""
        return self._ids[rows, :columns]

    def _widen_rows(self) -> None:
        old = len(self._ids)
        self._ids = np.concatenate((self._ids, np.zeros_like(self._ids)))
        self._free.extend(range(2 * old - 1, old - 1, -1))


def build_batch(steps: Sequence_[tuple[Sequence, int]], table: BlockTable) -> StepBatch:
    """The batch that computes so many next tokens of each sequence, whose blocks are in place."""
    ids: list[int] = []
    starts, contexts, rows, wanted = [0], [], [], []
    draws: list[Draw] = []
    columns = 1
    for sequence, count in steps:
        cached = sequence.cached_tokens
        ids.extend(sequence.token_ids[cached : cached + count])
        starts.append(len(ids))
        contexts.append(cached + count)
        rows.append(sequence.table_row)
        columns = max(columns, len(sequence.holding.blocks))
        if cached + count == len(sequence.token_ids):
            wanted.append(len(ids) - 1)
            draws.append(sequence.draw())
    return StepBatch(
        token_ids_T=np.array(ids, dtype=np.int64),
        query_starts=np.array(starts, dtype=np.int32),
        context_lens_S=np.array(contexts, dtype=np.int32),
        table_SC=table.rows(rows, columns),
        sampled_rows_R=np.array(wanted, dtype=np.int64),
        draws=tuple(draws),
        mix=Mix.of((count, sequence.cached_tokens) for sequence, count in steps),
    )
