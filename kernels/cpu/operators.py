"""Launchers of the C++ kernels: addresses and strides, no checks.

A decode step makes hundreds of these calls, so they read from a tensor only what they pass on.
Dimensions are those of `kernels.operators`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from hfx.kernels import _cpu

from ..batch import (
    INT32_MAX,
    AttentionSpec,
    Int32Array,
    Int64Array,
    KVCache,
    RaggedBatch,
    is_integer,
)
from ..operators import LinearWeights, Operators, RopeStyle
from ..plan import Tiling, WorkList
from . import linear as packed
from .isa import FORCED_ISA, ISAS, level_of

HEAD_SIZE_STEP = 16  # floats in the widest vector: rows of a head have no remainder
MOST_HEAD_SIZE = 1024  # that of cache_impl.hpp
LARGE_ROWS = 96  # their scores, sums and queries at head size 128 (172 kB) stay in half of L2
SMALL_ROWS = 16


@dataclass(frozen=True, slots=True, eq=False)
class NativeWork(WorkList):
    """A work list and its twin on the C++ side."""

    native: _cpu.Work


class CpuOperators(Operators):
    """Operators on the host's processor, in bfloat16 or float32.

    `isa` names an instruction set, None takes the best; `threads` is how many of torch's threads a
    large call may use, None all of them.

    Raises:
        ImportError: the processor can't run it.
        ValueError: there is no such instruction set, or no such number of threads.
    """

    name = "cpu"
    work_type = NativeWork

    def __init__(self, isa: str | None = FORCED_ISA, threads: int | None = None) -> None:
        if threads is not None and not is_integer(threads, 1):
            raise ValueError(f"threads is {threads!r}: at least 1 is needed")
        self.level = level_of(isa)
        self.threads: int = threads or torch.get_num_threads()

    @property
    def isa(self) -> str:
        """The instruction set in use."""
        return ISAS[self.level]

    @property
    def detail(self) -> str:
        return f"{self.isa}, {self.threads} thread{'s' if self.threads > 1 else ''}"

    def objection(self, spec: AttentionSpec) -> str | None:
        if spec.dtype not in (torch.bfloat16, torch.float32):
            return f"computes in torch.bfloat16, torch.float32, not in {spec.dtype}"
        if spec.head_size % HEAD_SIZE_STEP:
            return f"needs a head size that is a multiple of {HEAD_SIZE_STEP}, not {spec.head_size}"
        if spec.head_size > MOST_HEAD_SIZE:
            return f"needs a head size of at most {MOST_HEAD_SIZE}, not {spec.head_size}"
        if spec.stored_dtype not in (spec.dtype, torch.int8):
            return f"caches {spec.dtype} or torch.int8, not {spec.stored_dtype}"
        return None

    def allocate_cache(self, spec: AttentionSpec, pages: int) -> KVCache:
        objection = self.objection(spec)
        if objection is not None:
            raise ValueError(f"kernel back end {self.name!r} {objection}: take 'torch' instead")
        if not is_integer(pages, 0):
            raise ValueError(f"pages is {pages!r}: it must be an integer from 0 to {INT32_MAX}")
        heads, tokens, size = spec.kv_heads, spec.page_tokens, spec.head_size
        if spec.dtype == torch.bfloat16:
            k = torch.empty(pages, heads, size // 2, tokens, 2, dtype=spec.stored_dtype)
            v = torch.empty(pages, heads, tokens // 2, size, 2, dtype=spec.stored_dtype)
        else:
            k = torch.empty(pages, heads, size, tokens, dtype=spec.stored_dtype)
            v = torch.empty(pages, heads, tokens, size, dtype=spec.stored_dtype)
        if not spec.is_quantised:
            return KVCache(self.name, spec, k, v)
        shape = (pages, heads, tokens) if spec.cache_scaling == "token" else (1,)
        return KVCache(self.name, spec, k, v, torch.ones(shape), torch.ones(shape))

    def plan(
        self, spec: AttentionSpec, batch: RaggedBatch, *, split_tokens: int | None = None
    ) -> NativeWork:
        if batch.page_tokens != spec.page_tokens:
            raise ValueError(
                f"the batch has pages of {batch.page_tokens} tokens, the spec of {spec.page_tokens}"
            )
        if split_tokens is not None and not is_integer(split_tokens, 1):
            raise ValueError(
                f"split_tokens is {split_tokens!r}: it must be an integer of at least 1"
            )
        tiling = Tiling(small_rows=SMALL_ROWS, large_rows=LARGE_ROWS, programs=self.threads)
        if split_tokens is not None:
            tiling = replace(tiling, split_tokens=split_tokens, fixed=True)
        work = WorkList.tiled(spec, batch, tiling)
        native = _cpu.Work(
            work.items,
            work.reductions,
            batch.table_SC,
            work.slots,
            work.tile_rows,
            spec.kv_heads,
            spec.group,
            spec.head_size,
            spec.page_tokens,
            spec.window,
            spec.score_scale,
            spec.softcap,
            spec.dtype == torch.bfloat16,
            spec.cache_scaling == "token",
            self.threads,
            self.level,
        )
        return NativeWork(
            spec, batch, work.items, work.reductions, work.slots, work.tile_rows, native
        )

    def kv_write(
        self, cache: KVCache, k_TMH: torch.Tensor, v_TMH: torch.Tensor, slots_T: Int64Array
    ) -> None:
        spec = cache.spec
        _cpu.kv_write(
            k_TMH.data_ptr(),
            k_TMH.stride()[0],
            v_TMH.data_ptr(),
            v_TMH.stride()[0],
            cache.k.data_ptr(),
            cache.v.data_ptr(),
            *_scales(cache),
            spec.cache_scaling == "token",
            slots_T,
            spec.kv_heads,
            spec.head_size,
            spec.page_tokens,
            spec.dtype == torch.bfloat16,
            self.threads,
            self.level,
        )

    def attend(
        self,
        q_TNH: torch.Tensor,
        cache: KVCache,
        work: WorkList,
        out: torch.Tensor | None = None,
        sinks_N: torch.Tensor | None = None,
    ) -> torch.Tensor:
        assert isinstance(work, NativeWork)
        if out is None:
            out = torch.empty(q_TNH.shape, dtype=q_TNH.dtype)
        work.native.attend(
            q_TNH.data_ptr(),
            q_TNH.stride()[0],
            cache.k.data_ptr(),
            cache.v.data_ptr(),
            *_scales(cache),
            0 if sinks_N is None else sinks_N.data_ptr(),
            out.data_ptr(),
            out.stride()[0],
        )
        return out

    def rms_norm(
        self,
        x: torch.Tensor,
        weight_D: torch.Tensor,
        eps: float,
        residual: torch.Tensor | None = None,
        out: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        shape, stride = x.shape, x.stride()
        if out is None:
            out = torch.empty(shape, dtype=x.dtype)
        out_stride = out.stride()
        heads = shape[1] if len(shape) == 3 else 1
        _cpu.rms_norm(
            x.data_ptr(),
            stride[0],
            stride[1],
            weight_D.data_ptr(),
            0 if residual is None else residual.data_ptr(),
            0 if residual is None else residual.stride()[0],
            out.data_ptr(),
            out_stride[0],
            out_stride[1],
            shape[0],
            heads,
            shape[-1],
            eps,
            x.dtype == torch.bfloat16,
            self.threads,
            self.level,
        )
        return out, x if residual is None else residual

    def rope_(
        self,
        q_TNH: torch.Tensor,
        k_TMH: torch.Tensor,
        positions_T: Int32Array,
        table_PR: torch.Tensor,
        style: RopeStyle,
    ) -> None:
        _cpu.rope(
            q_TNH.data_ptr(),
            q_TNH.stride()[0],
            q_TNH.shape[1],
            k_TMH.data_ptr(),
            k_TMH.stride()[0],
            k_TMH.shape[1],
            q_TNH.shape[2],
            positions_T,
            table_PR.data_ptr(),
            table_PR.shape[1],
            style == "neox",
            q_TNH.dtype == torch.bfloat16,
            self.threads,
            self.level,
        )

    def rope_kv_write(
        self,
        q_TNH: torch.Tensor,
        k_TMH: torch.Tensor,
        v_TMH: torch.Tensor,
        positions_T: Int32Array,
        table_PR: torch.Tensor,
        style: RopeStyle,
        cache: KVCache,
        slots_T: Int64Array,
    ) -> None:
        spec = cache.spec
        _cpu.rope_kv_write(
            q_TNH.data_ptr(),
            q_TNH.stride()[0],
            spec.query_heads,
            k_TMH.data_ptr(),
            k_TMH.stride()[0],
            v_TMH.data_ptr(),
            v_TMH.stride()[0],
            spec.kv_heads,
            spec.head_size,
            positions_T,
            table_PR.data_ptr(),
            table_PR.shape[1],
            style == "neox",
            cache.k.data_ptr(),
            cache.v.data_ptr(),
            *_scales(cache),
            spec.cache_scaling == "token",
            slots_T,
            spec.page_tokens,
            spec.dtype == torch.bfloat16,
            self.threads,
            self.level,
        )

    def silu_mul(self, gate_up_T2F: torch.Tensor, out: torch.Tensor | None = None) -> torch.Tensor:
        rows, both = gate_up_T2F.shape
        if out is None:
            out = torch.empty(rows, both // 2, dtype=gate_up_T2F.dtype)
        _cpu.silu_mul(
            gate_up_T2F.data_ptr(),
            gate_up_T2F.stride()[0],
            out.data_ptr(),
            out.stride()[0],
            rows,
            both // 2,
            gate_up_T2F.dtype == torch.bfloat16,
            self.threads,
            self.level,
        )
        return out

    def pack_linear(
        self, weight_OI: torch.Tensor, bias_O: torch.Tensor | None = None, *, gated: bool = False
    ) -> LinearWeights:
        if packed.objection(weight_OI, gated) is not None:
            return super().pack_linear(weight_OI, bias_O, gated=gated)
        # One thread: loaders pack many layers side by side, and parallel regions would collide.
        return packed.pack_linear(weight_OI, bias_O, gated=gated, threads=1)

    def linear(
        self, x_TI: torch.Tensor, weights: LinearWeights, out: torch.Tensor | None = None
    ) -> torch.Tensor:
        if not isinstance(weights, packed.PackedLinear):
            return super().linear(x_TI, weights, out)
        return packed.linear(x_TI, weights, out, level=self.level, threads=self.threads)


def _scales(cache: KVCache) -> tuple[int, int]:
    """Where the scales of keys and values are; 0 for none."""
    if cache.k_scale is None or cache.v_scale is None:
        return 0, 0
    return cache.k_scale.data_ptr(), cache.v_scale.data_ptr()
