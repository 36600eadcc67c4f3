"""The back end "flash_attn": attention by flash-attn, whichever generation is installed.

Generation 3 (the module `flash_attn_interface`, Hopper) takes any page; generation 2 (flash-attn
2.8.3) takes pages of 256 tokens. S sequences with new tokens, C pages in a table row.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import torch

from .. import probe
from ..batch import AttentionSpec, KVCache, RaggedBatch
from ..library import LibraryOperators, LibraryWork, probed_specs, refuse_fixed_splits
from ..operators import Operators
from ..plan import WorkList
from .rest import first_library, need, rest_on

DTYPES = (torch.float16, torch.bfloat16)
HEAD_SIZE_STEP, MOST_HEAD_SIZE = 8, 256
PAGE_STEP = {2: 256, 3: 16}
MODULE = {"flash_attn_interface": 3, "flash_attn": 2}
HOPPER = (9, 0)  # the one architecture that generation 3 is built for
PROBED = AttentionSpec(4, 2, 128, 256, torch.bfloat16)


@dataclass(frozen=True, slots=True, eq=False)
class FlashWork(LibraryWork):
    """A step's int32 lists on the device: cumulative lengths [S + 1], lengths [S], pages [S, C]."""

    query_starts: torch.Tensor
    context_starts: torch.Tensor
    context_lens_S: torch.Tensor
    table_SC: torch.Tensor


class FlashAttentionOperators(LibraryOperators):
    """Operators on that device by that library, which is of generation 2 or 3."""

    name = "flash_attn"

    def __init__(
        self,
        rest: Operators,
        device: torch.device,
        library: Any,
        generation: int,
        refused: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(rest, device, refused)
        self._library = library
        self.generation = generation

    def rule(self, spec: AttentionSpec) -> str | None:
        if spec.dtype not in DTYPES:
            return f"computes in {', '.join(map(str, DTYPES))}, not in {spec.dtype}"
        if spec.is_quantised:
            return f"caches {spec.dtype}, not {spec.stored_dtype}"
        if spec.sinks:
            return "has no sinks"
        if spec.head_size % HEAD_SIZE_STEP or spec.head_size > MOST_HEAD_SIZE:
            return (
                f"needs a head size of a multiple of {HEAD_SIZE_STEP} up to {MOST_HEAD_SIZE}, "
                f"not {spec.head_size}"
            )
        step = PAGE_STEP[self.generation]
        if spec.page_tokens % step:
            return f"needs pages of a multiple of {step} tokens, not {spec.page_tokens}"
        return None

    def plan(
        self, spec: AttentionSpec, batch: RaggedBatch, *, split_tokens: int | None = None
    ) -> FlashWork:
        refuse_fixed_splits(self.name, split_tokens)
        work = LibraryWork.of(spec, batch)
        present = work.present
        context_starts = np.concatenate(([0], np.cumsum(present.context_lens_B)))
        return FlashWork(
            spec,
            batch,
            work.items,
            work.reductions,
            0,
            0,
            present,
            query_starts=self._upload(present.query_starts),
            context_starts=self._upload(context_starts.astype(np.int32)),
            context_lens_S=self._upload(present.context_lens_B),
            table_SC=self._upload(present.table_BC),
        )

    def attend(
        self,
        q_TNH: torch.Tensor,
        cache: KVCache,
        work: WorkList,
        out: torch.Tensor | None = None,
        sinks_N: torch.Tensor | None = None,
    ) -> torch.Tensor:
        assert isinstance(work, FlashWork) and sinks_N is None
        if not work.batch.tokens:
            return q_TNH.new_empty(q_TNH.shape) if out is None else out
        call = self._attend_2 if self.generation == 2 else self._attend_3
        y_TNH = call(q_TNH, cache, work)
        return y_TNH if out is None else out.copy_(y_TNH)

    def _attend_2(self, q_TNH: torch.Tensor, cache: KVCache, work: FlashWork) -> torch.Tensor:
        y_TNH: torch.Tensor = self._library.flash_attn_varlen_func(
            q_TNH,
            cache.k,
            cache.v,
            cu_seqlens_q=work.query_starts,
            cu_seqlens_k=work.context_starts,
            max_seqlen_q=work.present.most_queries,
            max_seqlen_k=int(work.present.context_lens_B.max()),
            block_table=work.table_SC,
            **_score(work.spec),
        )
        return y_TNH

    def _attend_3(self, q_TNH: torch.Tensor, cache: KVCache, work: FlashWork) -> torch.Tensor:
        y_TNH: torch.Tensor = self._library.flash_attn_with_kvcache(
            q_TNH,
            cache.k,
            cache.v,
            cache_seqlens=work.context_lens_S,
            page_table=work.table_SC,
            cu_seqlens_q=work.query_starts,
            max_seqlen_q=work.present.most_queries,
            **_score(work.spec),
        )
        return y_TNH


def _score(spec: AttentionSpec) -> dict[str, Any]:
    """What both generations call alike; a window there doesn't count the query's own key."""
    return {
        "softmax_scale": spec.score_scale,
        "causal": True,
        "window_size": (spec.window - 1, 0) if spec.window else (-1, -1),
        "softcap": spec.softcap,
    }


def load(device: torch.device) -> FlashAttentionOperators:
    """The operators, once the library has been tried on that device.

    Raises:
        ImportError: no GPU, neither generation is installed, or its attention is wrong here.
    """
    need(device, *MODULE)
    is_hopper = device.type == "cuda" and torch.cuda.get_device_capability(device) == HOPPER
    names = [name for name, generation in MODULE.items() if generation == 2 or is_hopper]
    name, library = first_library(*names)
    return tried(device, library, MODULE[name])


def tried(device: torch.device, library: Any, generation: int) -> FlashAttentionOperators:
    """Operators that know what that library gets wrong on that device.

    Raises:
        ImportError: it can't do plain causal attention.
    """
    refused = _refused(device, library, generation)
    fatal = refused.get("causal attention")
    if fatal is not None:
        raise ImportError(f"{library.__name__} {fatal}")
    return FlashAttentionOperators(rest_on(device), device, library, generation, refused)


@cache
def _refused(device: torch.device, library: Any, generation: int) -> Mapping[str, str]:
    """What is wrong there, found once a process."""
    operators = FlashAttentionOperators(rest_on(device), device, library, generation)
    return probe.refusals(operators, probed_specs(PROBED, ("window", "softcap")), device)
