"""Runs steps on a real model: one forward for the whole mixed batch, then the sampler.

T new tokens, R sampled rows, D residual width, V vocabulary.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from hfx.kernels import KVCache, RaggedBatch

from .batch import StepBatch, StepOutput
from .sampler import sample

if TYPE_CHECKING:
    from hfx.models import Decoder


class ModelExecutor:
    """A decoder and its caches of `blocks` blocks; implements `Executor`."""

    def __init__(self, decoder: "Decoder", blocks: int, block_tokens: int) -> None:
        self._decoder = decoder
        self._block_tokens = block_tokens
        self._caches = decoder.allocate_caches(blocks, block_tokens)

    @torch.inference_mode()
    def execute(self, batch: StepBatch) -> StepOutput:
        """See `Executor.execute`."""
        ragged = RaggedBatch(
            batch.query_starts, batch.context_lens_S, batch.table_SC, self._block_tokens
        )
        hidden_TD = self._decoder.forward(batch.token_ids_T, ragged, self._caches)
        if not len(batch.sampled_rows_R):
            return StepOutput(())
        if len(batch.sampled_rows_R) < len(hidden_TD):
            hidden_TD = hidden_TD[torch.from_numpy(batch.sampled_rows_R).to(hidden_TD.device)]
        logits_RV = self._decoder.logits(hidden_TD)
        if not self._decoder.leads:
            return StepOutput(())
        return StepOutput(sample(logits_RV.cpu().numpy(), batch.draws))

    @torch.inference_mode()
    def fill(self, blocks: Sequence[int]) -> None:
        """Put noise into blocks, so that reading them costs what real keys and values cost.

        Memory that nobody has written may be one page of zeros, which is read from a cache.
        """
        fill_with_noise(self._caches, blocks)


def fill_with_noise(caches: Sequence[KVCache], blocks: Sequence[int]) -> None:
    """Other numbers in every slot of these blocks."""
    for cache in caches:
        for part in (cache.k, cache.v):
            index = torch.tensor(blocks, device=part.device)
            part[index] = torch.randn_like(part[:1])
