"""Decode steps that are recorded at start and replayed while serving, one recording a bucket.

B rows of a bucket, S sequences of one new token each, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch

from hfx.kernels import KVCache, RaggedBatch, Room, WorkList

from .accelerator import Accelerator
from .batch import StepBatch
from .buckets import at_least, spare_slots
from .record import Recorder, Replay

if TYPE_CHECKING:
    from hfx.models import Decoder


class CapturedDecodes:
    """Recordings of decode steps of the sizes in `buckets`; all share one room and one result."""

    def __init__(
        self,
        decoder: Decoder,
        caches: Sequence[KVCache],
        room: Room,
        recorder: Recorder,
        accelerator: Accelerator,
        *,
        buckets: Sequence[int],
    ) -> None:
        self._decoder = decoder
        self._caches = caches
        self._room = room
        self._recorder = recorder
        self._buckets = tuple(buckets)
        self._replays: dict[int, Replay] = {}
        most, device = self._buckets[-1], accelerator.device
        self._page_tokens = caches[0].spec.page_tokens
        self._spare_page = caches[0].pages - 1
        self._host_ids = torch.zeros(most, dtype=torch.int64, pin_memory=accelerator.pins)
        self._ids = torch.zeros(most, dtype=torch.int64, device=device)
        vocabulary = decoder.spec.vocabulary
        self._logits = torch.zeros(most, vocabulary, dtype=torch.float32, device=device)

    @property
    def buckets(self) -> tuple[int, ...]:
        """Their sizes."""
        return self._buckets

    def record(self, size: int) -> None:
        """Record one bucket's step; the largest should come first, whose memory others reuse."""
        batch = RaggedBatch(
            np.arange(size + 1, dtype=np.int32),
            np.ones(size, np.int32),
            np.full((size, 1), self._spare_page, np.int32),
            self._page_tokens,
        )
        work = self._decoder.operators.plan_in(self._room, batch)
        self._replays[size] = self._recorder.record(self._run, work)

    def takes(self, batch: StepBatch) -> bool:
        """Whether this step has been recorded: one token of every sequence, not too many."""
        tokens = len(batch.token_ids_T)
        return tokens == len(batch.context_lens_S) <= self._buckets[-1]

    def logits(self, batch: StepBatch) -> torch.Tensor:
        """Replay a step: float32 [B, V], one row a sequence and padding behind; until the next."""
        sequences = len(batch.context_lens_S)
        size = at_least(self._buckets, sequences)
        padded = RaggedBatch(
            batch.query_starts,
            batch.context_lens_S,
            batch.table_SC,
            self._page_tokens,
            spare_slots(size - sequences, self._page_tokens, self._spare_page),
        )
        host_ids = self._host_ids.numpy()
        host_ids[:sequences] = batch.token_ids_T
        self._ids[:size].copy_(self._host_ids[:size], non_blocking=True)
        self._replays[size](self._decoder.operators.plan_in(self._room, padded))
        return self._logits[:size]

    def _run(self, work: WorkList) -> None:
        rows = work.batch.rows
        hidden_TD = self._decoder.run(self._ids[:rows], work, self._caches)
        self._decoder.logits(hidden_TD, out=self._logits[:rows])
