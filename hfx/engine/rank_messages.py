"""What rank 0 tells the others during a start and before every step, as bytes on their pipes.

A step travels as its arrays, T tokens of S sequences in C columns of blocks, R of them sampled;
who samples is rank 0. Nothing here imports torch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from hfx.request import Mix

from .batch import StepBatch

STEP, FILL, TIME = 1, 2, 3
HEADER = 5  # int64: kind, T, S, C, R
NO_MIX = Mix()


@dataclass(frozen=True, slots=True)
class Fill:
    """Put noise into these blocks."""

    blocks: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Time:
    """Add up so many numbers, so many times."""

    numbers: int
    repeats: int


Command = StepBatch | Fill | Time


def encode(command: Command) -> bytes:
    """As bytes."""
    if isinstance(command, Fill):
        return np.array([FILL, *command.blocks], np.int64).tobytes()
    if isinstance(command, Time):
        return np.array([TIME, command.numbers, command.repeats], np.int64).tobytes()
    sequences, columns = command.table_SC.shape
    sizes = (len(command.token_ids_T), sequences, columns, len(command.sampled_rows_R))
    parts = (
        np.array([STEP, *sizes], np.int64),
        command.token_ids_T.astype(np.int64, copy=False),
        command.sampled_rows_R.astype(np.int64, copy=False),
        command.query_starts.astype(np.int32, copy=False),
        command.context_lens_S.astype(np.int32, copy=False),
        np.ascontiguousarray(command.table_SC, np.int32),
    )
    return b"".join(part.tobytes() for part in parts)


def decode(message: bytes) -> Command:
    """The inverse, but for a step's `draws`, of which only rank 0 knows."""
    data = bytearray(message)  # arrays over it can be written to, as some kernels ask
    kind = int(np.frombuffer(data, np.int64, 1)[0])
    if kind == STEP:
        return _step(data)
    numbers: Sequence[int] = np.frombuffer(data, np.int64)[1:].tolist()
    return Fill(tuple(numbers)) if kind == FILL else Time(*numbers)


def _step(data: bytearray) -> StepBatch:
    _, tokens, sequences, columns, sampled = np.frombuffer(data, np.int64, HEADER).tolist()
    wide, narrow = 8, 4
    ids_at = HEADER * wide
    rows_at = ids_at + tokens * wide
    starts_at = rows_at + sampled * wide
    contexts_at = starts_at + (sequences + 1) * narrow
    table_at = contexts_at + sequences * narrow
    table = np.frombuffer(data, np.int32, sequences * columns, table_at)
    return StepBatch(
        token_ids_T=np.frombuffer(data, np.int64, tokens, ids_at),
        query_starts=np.frombuffer(data, np.int32, sequences + 1, starts_at),
        context_lens_S=np.frombuffer(data, np.int32, sequences, contexts_at),
        table_SC=table.reshape(sequences, columns),
        sampled_rows_R=np.frombuffer(data, np.int64, sampled, rows_at),
        draws=(),
        mix=NO_MIX,
    )
