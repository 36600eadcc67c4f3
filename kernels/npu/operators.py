"""Operators on an Ascend NPU: torch_npu's, or plain torch where those are refused.

Dimensions are those of `kernels.operators`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from ..batch import AttentionSpec, Int32Array, Int64Array, KVCache, RaggedBatch
from ..fallback import TorchOperators
from ..library import LibraryOperators, LibraryWork, refuse_fixed_splits
from ..operators import RopeStyle
from ..plan import WorkList
from . import fused_infer, pointwise


class NpuOperators(LibraryOperators):
    """Operators on that device; `library` is torch_npu, `refused` what it gets wrong here."""

    name = "fused_infer"

    def __init__(
        self, device: torch.device, library: Any, refused: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(TorchOperators(device), device, refused)
        self._library = library
        self._mask = fused_infer.causal_mask(device)
        self._planned: fused_infer.NpuWork | None = None

    def rule(self, spec: AttentionSpec) -> str | None:
        return fused_infer.broken_rule(spec)

    def features(self, spec: AttentionSpec) -> list[str]:
        return super().features(spec) + fused_infer.disputed(spec)

    def allocate_cache(self, spec: AttentionSpec, pages: int) -> KVCache:
        if self.objection(spec) is None:
            fused_infer.check_cache(spec, pages)
        return super().allocate_cache(spec, pages)

    def plan(
        self, spec: AttentionSpec, batch: RaggedBatch, *, split_tokens: int | None = None
    ) -> fused_infer.NpuWork:
        refuse_fixed_splits(self.name, split_tokens)
        work = LibraryWork.of(spec, batch)
        present = work.present
        self._planned = fused_infer.NpuWork(
            spec,
            batch,
            work.items,
            work.reductions,
            0,
            0,
            present,
            query_ends_B=present.query_ends_B.tolist(),
            context_lens_B=present.context_lens_B.tolist(),
            table_BC=self._upload(present.table_BC),
            positions_T=self._upload(batch.positions_T),
            slots_T=self._upload(batch.slots_T),
        )
        return self._planned

    def attend(
        self,
        q_TNH: torch.Tensor,
        cache: KVCache,
        work: WorkList,
        out: torch.Tensor | None = None,
        sinks_N: torch.Tensor | None = None,
    ) -> torch.Tensor:
        assert isinstance(work, fused_infer.NpuWork)
        if not work.batch.tokens:
            return q_TNH.new_empty(q_TNH.shape) if out is None else out
        y_TNH = fused_infer.attend(self._library, q_TNH, cache, work, self._mask, sinks_N)
        return y_TNH if out is None else out.copy_(y_TNH)

    def kv_write(
        self, cache: KVCache, k_TMH: torch.Tensor, v_TMH: torch.Tensor, slots_T: Int64Array
    ) -> None:
        if "kv_write" in self._refused or not len(slots_T):
            return self._rest.kv_write(cache, k_TMH, v_TMH, slots_T)
        pointwise.kv_write(self._library, cache, k_TMH, v_TMH, self._on_device(slots_T))

    def rms_norm(
        self,
        x: torch.Tensor,
        weight_D: torch.Tensor,
        eps: float,
        residual: torch.Tensor | None = None,
        out: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        if "rms_norm" in self._refused:
            return self._rest.rms_norm(x, weight_D, eps, residual, out)
        residual = x if residual is None else residual.add_(x)
        y = pointwise.rms_norm(self._library, residual, weight_D, eps)
        return (y if out is None else out.copy_(y)), residual

    def rope_(
        self,
        q_TNH: torch.Tensor,
        k_TMH: torch.Tensor,
        positions_T: Int32Array,
        table_PR: torch.Tensor,
        style: RopeStyle,
    ) -> None:
        if "rope" in self._refused:
            return self._rest.rope_(q_TNH, k_TMH, positions_T, table_PR, style)
        row_TR = table_PR.index_select(0, self._on_device(positions_T))
        for x in (q_TNH, k_TMH):
            pointwise.rope_(self._library, x, row_TR, style)

    def silu_mul(self, gate_up_T2F: torch.Tensor, out: torch.Tensor | None = None) -> torch.Tensor:
        if "silu_mul" in self._refused:
            return self._rest.silu_mul(gate_up_T2F, out)
        y = pointwise.silu_mul(self._library, gate_up_T2F)
        return y if out is None else out.copy_(y)

    def _on_device(self, values: Int32Array | Int64Array) -> torch.Tensor:
        """The array's copy on the device, the planned step's own where it's that."""
        planned = self._planned
        if planned is not None and values is planned.batch.positions_T:
            return planned.positions_T
        if planned is not None and values is planned.batch.slots_T:
            return planned.slots_T
        return self._upload(values)
