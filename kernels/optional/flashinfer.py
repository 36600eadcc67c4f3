"""The back end "flashinfer": attention by FlashInfer's paged prefill, for mixed batches as well.

Written for flashinfer-python 0.7.2. `BatchAttention`, its one-launch form, has no window, so the
wrapper that has one serves all specs, and its descendant those with sinks. S sequences with new
tokens.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import torch

from .. import probe
from ..batch import AttentionSpec, Int32Array, KVCache, RaggedBatch
from ..library import LibraryOperators, LibraryWork, Present, probed_specs
from ..operators import Operators
from ..plan import WorkList
from .rest import first_library, need, rest_on

DTYPES = (torch.float16, torch.bfloat16)
HEAD_SIZES = (64, 128, 256)  # those that its kernels are instantiated for
# Its kernels with sinks are built when first used and named without their head size: a second size
# would be given the first one's. This is the size that it tests them with.
SINK_HEAD_SIZE = 128
WORKSPACE_BYTES = 128 << 20  # what its documentation recommends
LAYOUT = "NHD"
PROBED = AttentionSpec(4, 2, 128, 16, torch.bfloat16)


@dataclass(frozen=True, slots=True)
class PageLists:
    """A batch's pages end to end as FlashInfer reads them: starts [S + 1], pages, last fill [S]."""

    starts: Int32Array
    pages: Int32Array
    last_fill_S: Int32Array

    @classmethod
    def of(cls, present: Present, page_tokens: int) -> PageLists:
        """The pages that those sequences' contexts lie in."""
        pages_S = -(-present.context_lens_B // page_tokens)
        is_used_SC = np.arange(present.table_BC.shape[1]) < pages_S[:, None]
        return cls(
            np.concatenate(([0], np.cumsum(pages_S))).astype(np.int32),
            present.table_BC[is_used_SC],
            present.context_lens_B - (pages_S - 1) * page_tokens,
        )


class FlashInferOperators(LibraryOperators):
    """Operators on that device by that library.

    A spec has one wrapper, which knows one plan: whoever attends with an older one plans again.
    """

    name = "flashinfer"

    def __init__(
        self,
        rest: Operators,
        device: torch.device,
        library: Any,
        refused: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(rest, device, refused)
        self._library = library
        self._workspace: torch.Tensor | None = None
        self._wrappers: dict[AttentionSpec, Any] = {}
        self._planned: dict[AttentionSpec, LibraryWork] = {}

    def rule(self, spec: AttentionSpec) -> str | None:
        if spec.dtype not in DTYPES:
            return f"computes in {', '.join(map(str, DTYPES))}, not in {spec.dtype}"
        if spec.is_quantised:
            return f"caches {spec.dtype}, not {spec.stored_dtype}"
        if spec.head_size not in HEAD_SIZES:
            return f"needs a head size of {', '.join(map(str, HEAD_SIZES))}, not {spec.head_size}"
        if spec.sinks and spec.head_size != SINK_HEAD_SIZE:
            return f"has sinks for a head size of {SINK_HEAD_SIZE} only, not {spec.head_size}"
        if spec.sinks and spec.softcap:
            return "has no soft-cap beside sinks"
        return None

    def plan(
        self, spec: AttentionSpec, batch: RaggedBatch, *, split_tokens: int | None = None
    ) -> LibraryWork:
        if split_tokens is not None:
            raise ValueError(
                f"split_tokens is {split_tokens}: kernel back end {self.name!r} can fix where keys "
                "are split (fixed_split_size), but not the rows of its tiles, which follow the "
                "batch's mean query length, so that a sequence's result would still depend on its "
                "company; take None, or another back end"
            )
        work = LibraryWork.of(spec, batch)
        self._prepare(work)
        return work

    def attend(
        self,
        q_TNH: torch.Tensor,
        cache: KVCache,
        work: WorkList,
        out: torch.Tensor | None = None,
        sinks_N: torch.Tensor | None = None,
    ) -> torch.Tensor:
        assert isinstance(work, LibraryWork)
        if not work.batch.tokens:
            return q_TNH.new_empty(q_TNH.shape) if out is None else out
        if self._planned.get(work.spec) is not work:
            self._prepare(work)
        wrapper = self._wrappers[work.spec]
        extra = () if sinks_N is None else (sinks_N, work.spec.score_scale)
        y_TNH: torch.Tensor = wrapper.run(q_TNH.contiguous(), (cache.k, cache.v), *extra)
        return y_TNH if out is None else out.copy_(y_TNH)

    def _prepare(self, work: LibraryWork) -> None:
        """Tell the spec's wrapper about that step."""
        if not work.batch.tokens:
            return
        spec = work.spec
        lists = PageLists.of(work.present, spec.page_tokens)
        self._wrapper(spec).plan(
            torch.from_numpy(work.present.query_starts),
            torch.from_numpy(lists.starts),
            self._upload(lists.pages),
            torch.from_numpy(lists.last_fill_S),
            spec.query_heads,
            spec.kv_heads,
            spec.head_size,
            spec.page_tokens,
            causal=True,
            sm_scale=spec.score_scale,
            window_left=spec.window - 1,
            logits_soft_cap=spec.softcap,
            q_data_type=spec.dtype,
            kv_data_type=spec.dtype,
        )
        self._planned[spec] = work

    def _wrapper(self, spec: AttentionSpec) -> Any:
        if self._workspace is None:
            self._workspace = torch.empty(WORKSPACE_BYTES, dtype=torch.uint8, device=self._device)
        if spec not in self._wrappers:
            self._wrappers[spec] = self._created(spec, self._workspace)
        return self._wrappers[spec]

    def _created(self, spec: AttentionSpec, workspace: torch.Tensor) -> Any:
        if not spec.sinks:
            return self._library.BatchPrefillWithPagedKVCacheWrapper(workspace, LAYOUT)
        return self._library.BatchAttentionWithAttentionSinkWrapper(
            workspace,
            LAYOUT,
            q_data_type=spec.dtype,
            kv_data_type=spec.dtype,
            head_dim_qk=spec.head_size,
            head_dim_vo=spec.head_size,
            window_left=spec.window - 1,
        )


def load(device: torch.device) -> FlashInferOperators:
    """The operators, once the library has been tried on that device.

    Raises:
        ImportError: no GPU, it isn't installed, or its attention is wrong here.
    """
    need(device, "flashinfer")
    _, library = first_library("flashinfer")
    return tried(device, library)


def tried(device: torch.device, library: Any) -> FlashInferOperators:
    """Operators that know what that library gets wrong on that device.

    Raises:
        ImportError: it can't do plain causal attention.
    """
    refused = _refused(device, library)
    fatal = refused.get("causal attention")
    if fatal is not None:
        raise ImportError(f"flashinfer {fatal}")
    return FlashInferOperators(rest_on(device), device, library, refused)


@cache
def _refused(device: torch.device, library: Any) -> Mapping[str, str]:
    """What is wrong there, found once a process."""
    operators = FlashInferOperators(rest_on(device), device, library)
    return probe.refusals(operators, probed_specs(PROBED, ("window", "softcap", "sinks")), device)
