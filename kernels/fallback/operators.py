"""Every operator in plain torch; half types compute attention and statistics in float32.

The cache is [pages, page_tokens, M, H]. Dimensions are those of `kernels.operators`.
"""

from __future__ import annotations

import torch

from ..batch import AttentionSpec, Int32Array, Int64Array, KVCache
from ..operators import Operators, RopeStyle
from ..plan import WorkList
from .attention import attend_sequence
from .quantise import write


class TorchOperators(Operators):
    """Operators for one torch device."""

    name = "torch"

    def __init__(self, device: torch.device) -> None:
        self._device = device

    def allocate_cache(self, spec: AttentionSpec, pages: int) -> KVCache:
        shape = (pages, spec.page_tokens, spec.kv_heads, spec.head_size)
        k = torch.empty(shape, dtype=spec.stored_dtype, device=self._device)
        v = torch.empty_like(k)
        if not spec.is_quantised:
            return KVCache(self.name, spec, k, v)
        of = shape[:-1] if spec.cache_scaling == "token" else (1,)
        k_scale, v_scale = (torch.ones(of, device=self._device) for _ in range(2))
        return KVCache(self.name, spec, k, v, k_scale, v_scale)

    def kv_write(
        self, cache: KVCache, k_TMH: torch.Tensor, v_TMH: torch.Tensor, slots_T: Int64Array
    ) -> None:
        slots = self._index(slots_T)
        write(cache.k, cache.k_scale, k_TMH, slots)
        write(cache.v, cache.v_scale, v_TMH, slots)

    def attend(
        self,
        q_TNH: torch.Tensor,
        cache: KVCache,
        work: WorkList,
        out: torch.Tensor | None = None,
        sinks_N: torch.Tensor | None = None,
    ) -> torch.Tensor:
        if out is None:
            out = q_TNH.new_empty(q_TNH.shape)
        batch = work.batch
        starts = batch.query_starts.tolist()
        for sequence, context in enumerate(batch.context_lens_S.tolist()):
            rows = slice(starts[sequence], starts[sequence + 1])
            pages_C = self._index(batch.table_SC[sequence])
            attend_sequence(q_TNH[rows], cache, pages_C, context, work.spec, out[rows], sinks_N)
        return out

    def rms_norm(
        self,
        x: torch.Tensor,
        weight_D: torch.Tensor,
        eps: float,
        residual: torch.Tensor | None = None,
        out: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        residual = x if residual is None else residual.add_(x)
        wide = residual.to(_wide(x.dtype))
        wide = wide * torch.rsqrt(wide.square().mean(dim=-1, keepdim=True) + eps)
        y = weight_D * wide.to(x.dtype)
        return (y if out is None else out.copy_(y)), residual

    def rope_(
        self,
        q_TNH: torch.Tensor,
        k_TMH: torch.Tensor,
        positions_T: Int32Array,
        table_PR: torch.Tensor,
        style: RopeStyle,
    ) -> None:
        rotary = table_PR.shape[1]
        row_T1R = table_PR.index_select(0, self._index(positions_T)).unsqueeze(1)
        cos, sin = row_T1R.to(_wide(q_TNH.dtype)).chunk(2, dim=-1)
        for x in (q_TNH, k_TMH):
            a, b = _halves(x[..., :rotary], style)
            wide_a, wide_b = a.to(cos.dtype), b.to(cos.dtype)
            rotated_a, rotated_b = wide_a * cos - wide_b * sin, wide_b * cos + wide_a * sin
            a.copy_(rotated_a)
            b.copy_(rotated_b)

    def silu_mul(self, gate_up_T2F: torch.Tensor, out: torch.Tensor | None = None) -> torch.Tensor:
        gate, up = gate_up_T2F.chunk(2, dim=-1)
        return torch.mul(torch.nn.functional.silu(gate), up, out=out)

    def _index(self, values: Int32Array | Int64Array) -> torch.Tensor:
        return torch.as_tensor(values, device=self._device)


def _wide(dtype: torch.dtype) -> torch.dtype:
    """The type that sums are made in."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def _halves(x: torch.Tensor, style: RopeStyle) -> tuple[torch.Tensor, torch.Tensor]:
    """Views of the two members of every rotated pair."""
    if style == "neox":
        first, second = x.chunk(2, dim=-1)
        return first, second
    return x[..., 0::2], x[..., 1::2]
