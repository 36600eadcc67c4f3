"""Runs steps on an accelerator, every one in a shape that was prepared at start.

T rows of a step (new tokens, and padding), R sampled rows, D residual width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from .accelerator import Accelerator
from .batch import StepBatch, StepOutput
from .buckets import Buckets, at_least
from .captured import CapturedDecodes
from .device_sampler import DeviceSampler
from .executor import fill_with_noise
from .record import Recorder

if TYPE_CHECKING:
    from hfx.models import Decoder


class DeviceExecutor:
    """A decoder and its caches of `blocks` blocks and one to spare; implements `Executor`.

    `recorder` None, or a back end without rooms: nothing is recorded, every step is launched.
    """

    def __init__(
        self,
        decoder: Decoder,
        blocks: int,
        block_tokens: int,
        buckets: Buckets,
        accelerator: Accelerator,
        recorder: Recorder | None,
    ) -> None:
        self._decoder = decoder
        self._block_tokens = block_tokens
        self._spare_page = blocks
        self._buckets = buckets
        self._accelerator = accelerator
        self._caches = decoder.allocate_caches(blocks + 1, block_tokens)
        for cache in self._caches:
            for part in (cache.k, cache.v):
                part[self._spare_page].zero_()  # padding and preparations read it
        rows = (buckets.tokens[-1] + buckets.sequences[-1],)
        self._host_ids = torch.zeros(rows, dtype=torch.int64, pin_memory=accelerator.pins)
        self._ids = torch.zeros(rows, dtype=torch.int64, device=accelerator.device)
        self._sampler = DeviceSampler(decoder.operators, buckets.sequences[-1], accelerator)
        self.captured = self._capturing(recorder)

    @property
    def buckets(self) -> Buckets:
        """The shapes that it runs."""
        return self._buckets

    @property
    def spare_page(self) -> int:
        """A page of the caches that no sequence owns."""
        return self._spare_page

    @torch.inference_mode()
    def execute(self, batch: StepBatch) -> StepOutput:
        """See `Executor.execute`."""
        if self.captured is not None and self.captured.takes(batch):
            logits_RV = self.captured.logits(batch)
            places = batch.sampled_rows_R.tolist()
        else:
            logits_RV = self._launched(batch)
            places = list(range(len(batch.draws)))
        draws = batch.draws if self._decoder.leads else ()
        sampled = self._sampler.choose(logits_RV, places, draws)
        # Buffers on the host are filled anew by the next step, and this one's end is timed.
        self._accelerator.synchronize()
        return StepOutput(sampled)

    @torch.inference_mode()
    def fill(self, blocks: Sequence[int]) -> None:
        """See `ModelExecutor.fill`."""
        fill_with_noise(self._caches, blocks)

    @torch.inference_mode()
    def record(self, size: int) -> None:
        """Record the decode step of that many sequences."""
        assert self.captured is not None
        self.captured.record(size)

    def _launched(self, batch: StepBatch) -> torch.Tensor:
        """float32 [R, V] of a step that wasn't recorded, padding behind the wanted rows.

        Nothing where no row is wanted.
        """
        ragged = self._buckets.pad(batch, self._block_tokens, self._spare_page)
        decoder, rows = self._decoder, ragged.rows
        sampled = len(batch.sampled_rows_R)
        wanted = at_least(self._buckets.sequences, sampled) if sampled else 0
        host_ids = self._host_ids.numpy()
        host_ids[: rows + wanted] = 0
        host_ids[: len(batch.token_ids_T)] = batch.token_ids_T
        host_ids[rows : rows + sampled] = batch.sampled_rows_R
        ids = self._ids[: rows + wanted]
        ids.copy_(self._host_ids[: rows + wanted], non_blocking=True)
        work = decoder.operators.plan(self._caches[0].spec, ragged)
        hidden_TD = decoder.run(ids[:rows], work, self._caches)
        if not wanted:
            return hidden_TD[:0]
        return decoder.logits(hidden_TD.index_select(0, ids[rows:]))

    def _capturing(self, recorder: Recorder | None) -> CapturedDecodes | None:
        context_tokens = self._buckets.columns * self._block_tokens
        room = None
        if recorder is not None:
            room = self._decoder.operators.room(
                self._caches[0].spec,
                sequences=self._buckets.decodes[-1],
                context_tokens=context_tokens,
            )
        if room is None or recorder is None:
            return None
        return CapturedDecodes(
            self._decoder,
            self._caches,
            room,
            recorder,
            self._accelerator,
            buckets=self._buckets.decodes,
        )
