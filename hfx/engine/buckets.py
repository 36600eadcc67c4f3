"""Which shapes a step on a device is padded to, so that none is new while serving.

S sequences, T new tokens, C columns of the block table. Sizes are sequences, tokens and columns.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hfx.kernels import RaggedBatch

from .batch import StepBatch

COLUMNS_STEP = 16  # kernels are compiled for a table's stride that is a multiple
TOKEN_STEPS = 8  # sizes an octave: at most an eighth of a step is padding
DECODE_STEPS = 4  # each is captured, and a decode's padding costs little


@dataclass(frozen=True, slots=True, kw_only=True)
class Buckets:
    """The sizes that steps may have, each in ascending order; the last is the most there can be.

    `decodes` are sizes of steps that only decode, of which each can be captured. Tables have
    `columns` columns, whatever the contexts.
    """

    tokens: tuple[int, ...]
    sequences: tuple[int, ...]
    decodes: tuple[int, ...]
    columns: int

    @classmethod
    def of(
        cls, *, max_tokens: int, max_sequences: int, context_tokens: int, page_tokens: int
    ) -> Buckets:
        """Sizes for steps within those limits."""
        pages = -(-context_tokens // page_tokens)
        return cls(
            tokens=ladder(max_tokens, TOKEN_STEPS),
            sequences=ladder(max_sequences, 1),
            decodes=ladder(max_sequences, DECODE_STEPS),
            columns=-(-pages // COLUMNS_STEP) * COLUMNS_STEP,
        )

    def pad(self, batch: StepBatch, page_tokens: int, spare_page: int) -> RaggedBatch:
        """The batch in the least shape that holds it; padding writes into the spare page.

        Sequences that were added have no tokens, rows that were added belong to none.
        """
        sequences, used = batch.table_SC.shape
        more = at_least(self.sequences, sequences) - sequences
        table_SC = np.zeros((sequences + more, self.columns), np.int32)
        table_SC[:sequences, :used] = batch.table_SC
        tokens = len(batch.token_ids_T)
        return RaggedBatch(
            np.pad(batch.query_starts, (0, more), mode="edge"),
            np.pad(batch.context_lens_S, (0, more)),
            table_SC,
            page_tokens,
            spare_slots(at_least(self.tokens, tokens) - tokens, page_tokens, spare_page),
        )


def ladder(most: int, steps: int) -> tuple[int, ...]:
    """Sizes from 1 to `most`, so many in each octave, whole ones as far as there are."""
    sizes: list[int] = []
    size = 1
    while size < most:
        sizes.append(size)
        octave = 1 << (size.bit_length() - 1)
        size += max(1, octave // steps)
    return (*sizes, most)


def at_least(sizes: Sequence[int], wanted: int) -> int:
    """The least of the ascending sizes that holds so many."""
    index = bisect_left(sizes, wanted)
    assert index < len(sizes), f"{wanted} is more than the {sizes[-1]} that were prepared"
    return sizes[index]


def spare_slots(count: int, page_tokens: int, spare_page: int) -> NDArray[np.int64]:
    """Slots for so many rows of padding, spread over the spare page."""
    return spare_page * page_tokens + np.arange(count, dtype=np.int64) % page_tokens
