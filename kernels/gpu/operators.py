"""Launchers of the Triton kernels: grids, strides and constants, no checks.

Dimensions are those of `kernels.operators`. A launch that finds the arrays of the step that was
planned last uses their copies on the device instead of sending them again.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from triton.tools.tensor_descriptor import TensorDescriptor

from ..batch import QUANTISED, AttentionSpec, Int32Array, Int64Array, KVCache, RaggedBatch
from ..draws import Draws
from ..operators import Operators, Room, RopeStyle
from ..plan import Capacity, WorkList
from . import attend as attention
from . import cache as caches
from . import ffn, norm
from . import rope as rotation
from .configs import constants, launch_of, padded, scaling, small_rows
from .device import Device
from .room import GpuRoom
from .sample import sample
from .work import GpuWork, kind_of, tiling_of

DTYPES = (torch.float16, torch.bfloat16, torch.float32)
HEAD_SIZES = (16, 256)  # tl.dot needs 16; more than 256 would not fit into registers
BLOCK_NUMBERS = 4096  # of a program of the small kernels: 32 a thread
ROW_NUMBERS_PER_WARP = 512
SLOTS_AT_ONCE = 16  # parts that a reduction loads together


class TritonOperators(Operators):
    """Operators on a GPU, or on the CPU under Triton's interpreter.

    `on` None is what there is at that device.
    """

    name = "triton"
    compiles = True
    samples = True

    def __init__(self, device: torch.device, on: Device | None = None) -> None:
        self.on = Device.of(device) if on is None else on
        self._device = device
        self._planned: GpuWork | None = None

    @property
    def detail(self) -> str:
        return f"{self.on.architecture}, {self.on.cores} cores"

    def objection(self, spec: AttentionSpec) -> str | None:
        if spec.dtype not in DTYPES:
            return f"computes in {', '.join(map(str, DTYPES))}, not in {spec.dtype}"
        least, most = HEAD_SIZES
        if not least <= spec.head_size <= most or spec.head_size % 8:
            return (
                f"needs a head size from {least} to {most} that is a multiple of 8, "
                f"not {spec.head_size}"
            )
        if spec.stored_dtype == torch.float8_e4m3fn and not self.on.has_float8:
            return f"has no float8_e4m3fn on {self.on.architecture}: store {QUANTISED[0]}"
        return None

    def allocate_cache(self, spec: AttentionSpec, pages: int) -> KVCache:
        objection = self.objection(spec)
        if objection is not None:
            raise ValueError(f"kernel back end {self.name!r} {objection}; 'torch' takes anything")
        shape = (pages, spec.page_tokens, spec.kv_heads, spec.head_size)
        k = torch.empty(shape, dtype=spec.stored_dtype, device=self._device)
        v = torch.empty_like(k)
        if not spec.is_quantised:
            return KVCache(self.name, spec, k, v)
        of = shape[:-1] if spec.cache_scaling == "token" else (1,)
        k_scale, v_scale = (torch.ones(of, device=self._device) for _ in range(2))
        return KVCache(self.name, spec, k, v, k_scale, v_scale)

    def plan(
        self, spec: AttentionSpec, batch: RaggedBatch, *, split_tokens: int | None = None
    ) -> GpuWork:
        if split_tokens is None:
            kind = kind_of(spec, batch, small_rows(spec))
            launch = launch_of(self.on.architecture, kind, spec)
        else:  # one specialisation for any company: others may take other blocks
            launch = launch_of(self.on.architecture, "mixed", spec)
            launch = replace(launch, split_tokens=split_tokens)
        self._planned = GpuWork.planned(
            spec,
            batch,
            launch,
            self.on.cores * launch.programs_per_core,
            self._device,
            fixed=split_tokens is not None,
        )
        return self._planned

    def room(self, spec: AttentionSpec, *, sequences: int, context_tokens: int) -> GpuRoom:
        launch = launch_of(self.on.architecture, "decode", spec)
        programs = self.on.cores * launch.programs_per_core
        capacity = Capacity.of(
            spec,
            tiling_of(launch, programs, fixed=False),
            sequences=sequences,
            tokens=sequences,
            context_tokens=context_tokens,
        )
        return GpuRoom.of(
            spec,
            launch,
            programs,
            capacity,
            self._device,
            sequences=sequences,
            context_tokens=context_tokens,
        )

    def plan_in(self, room: Room, batch: RaggedBatch) -> GpuWork:
        assert isinstance(room, GpuRoom)
        self._planned = GpuWork.planned_in(room, batch)
        return self._planned

    def kv_write(
        self, cache: KVCache, k_TMH: torch.Tensor, v_TMH: torch.Tensor, slots_T: Int64Array
    ) -> None:
        spec = cache.spec
        heads = heads_at_once(spec.kv_heads, spec.head_size)
        if len(slots_T):
            caches.kv_write[(len(slots_T), -(-spec.kv_heads // heads))](
                k_TMH,
                v_TMH,
                cache.k,
                cache.v,
                cache.k_scale,
                cache.v_scale,
                self._on_device(slots_T),
                k_TMH.stride(0),
                v_TMH.stride(0),
                M=spec.kv_heads,
                H=spec.head_size,
                W=padded(spec.head_size),
                SCALING=scaling(spec),
                HEADS=heads,
                WIDEN=self.on.is_interpreter,
            )

    def attend(
        self,
        q_TNH: torch.Tensor,
        cache: KVCache,
        work: WorkList,
        out: torch.Tensor | None = None,
        sinks_N: torch.Tensor | None = None,
    ) -> torch.Tensor:
        assert isinstance(work, GpuWork)
        if out is None:
            out = torch.empty(q_TNH.shape, dtype=q_TNH.dtype, device=q_TNH.device)
        if len(work.items):
            self._run_tiles(q_TNH, cache, work, out, sinks_N)
        if work.reduces:
            self._put_together(work, out)
        return out

    def _run_tiles(
        self,
        q_TNH: torch.Tensor,
        cache: KVCache,
        work: GpuWork,
        out: torch.Tensor,
        sinks_N: torch.Tensor | None,
    ) -> None:
        spec, launch = work.spec, work.launch
        k, v = cache.k, cache.v
        if launch.addressing(spec) == "descriptor":
            k, v = (_descriptor(x, launch.keys) for x in (k, v))
        attention.ragged_attention[(work.programs,)](
            q_TNH,
            k,
            v,
            out,
            work.partial,
            work.stats,
            cache.k_scale,
            cache.v_scale,
            sinks_N,
            work.counts,
            work.device_items,
            work.table_SC,
            spec.score_scale * attention.LOG2_E.value,
            spec.softcap * attention.LOG2_E.value,
            q_TNH.stride(0),
            out.stride(0),
            work.table_SC.stride(0),
            **constants(spec, launch, widen=self.on.is_interpreter),
            num_warps=launch.warps,
            num_stages=launch.stages,
            enable_fp_fusion=True,
        )

    def _put_together(self, work: GpuWork, out: torch.Tensor) -> None:
        spec = work.spec
        attention.reduce_splits[(work.programs,)](
            out,
            work.partial,
            work.stats,
            work.counts,
            work.lines,
            out.stride(0),
            G=spec.group,
            M=spec.kv_heads,
            H=spec.head_size,
            W=padded(spec.head_size),
            PARTIAL_ROWS=work.launch.partial_rows,
            SLOTS=SLOTS_AT_ONCE,
            WIDEN=self.on.is_interpreter,
        )

    def rms_norm(
        self,
        x: torch.Tensor,
        weight_D: torch.Tensor,
        eps: float,
        residual: torch.Tensor | None = None,
        out: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        if out is None:
            out = torch.empty(x.shape, dtype=x.dtype, device=x.device)
        heads, width = (x.shape[1] if x.ndim == 3 else 1), x.shape[-1]
        if x.numel():
            norm.rms_norm[(len(x), heads)](
                x,
                weight_D,
                residual,
                out,
                eps,
                x.stride(0),
                x.stride(1),
                0 if residual is None else residual.stride(0),
                out.stride(0),
                out.stride(1),
                D=width,
                W=padded(width),
                HAS_RESIDUAL=residual is not None,
                WIDEN=self.on.is_interpreter,
                num_warps=row_warps(width),
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
        self._rotate(q_TNH, k_TMH, None, positions_T, table_PR, style, None, None)

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
        self._rotate(q_TNH, k_TMH, v_TMH, positions_T, table_PR, style, cache, slots_T)

    def _rotate(
        self,
        q_TNH: torch.Tensor,
        k_TMH: torch.Tensor,
        v_TMH: torch.Tensor | None,
        positions_T: Int32Array,
        table_PR: torch.Tensor,
        style: RopeStyle,
        cache: KVCache | None,
        slots_T: Int64Array | None,
    ) -> None:
        tokens, query_heads, size = q_TNH.shape
        kv_heads, rotary = k_TMH.shape[1], table_PR.shape[1]
        heads = heads_at_once(max(query_heads, kv_heads), size)
        if tokens:
            rotation.rope[(tokens, -(-query_heads // heads) + -(-kv_heads // heads))](
                q_TNH,
                k_TMH,
                v_TMH,
                None if cache is None else cache.k,
                None if cache is None else cache.v,
                None if cache is None else cache.k_scale,
                None if cache is None else cache.v_scale,
                self._on_device(positions_T),
                None if slots_T is None else self._on_device(slots_T),
                table_PR,
                q_TNH.stride(0),
                k_TMH.stride(0),
                0 if v_TMH is None else v_TMH.stride(0),
                N=query_heads,
                M=kv_heads,
                H=size,
                W=padded(size),
                R=rotary,
                NEOX=style == "neox",
                WRITES=cache is not None,
                SCALING="" if cache is None else scaling(cache.spec),
                HEADS=heads,
                PAIRS=padded(rotary // 2),
                WIDEN=self.on.is_interpreter,
            )

    def silu_mul(self, gate_up_T2F: torch.Tensor, out: torch.Tensor | None = None) -> torch.Tensor:
        rows, width = gate_up_T2F.shape[0], gate_up_T2F.shape[1] // 2
        if out is None:
            out = torch.empty(rows, width, dtype=gate_up_T2F.dtype, device=gate_up_T2F.device)
        block = min(BLOCK_NUMBERS // 4, padded(width))
        if gate_up_T2F.numel():
            ffn.silu_mul[(rows, -(-width // block))](
                gate_up_T2F,
                out,
                gate_up_T2F.stride(0),
                out.stride(0),
                width,
                BLOCK=block,
                WIDEN=self.on.is_interpreter,
            )
        return out

    def sample(self, logits_RV: torch.Tensor, draws: Draws) -> torch.Tensor:
        return sample(logits_RV, draws)

    def _on_device(self, values: Int32Array | Int64Array) -> torch.Tensor:
        """The array's copy on the device, the planned step's own where it's that."""
        planned = self._planned
        if planned is not None and values is planned.batch.positions_T:
            return planned.positions_T
        if planned is not None and values is planned.batch.slots_T:
            return planned.slots_T
        return torch.from_numpy(values).to(self._device)


def row_warps(width: int) -> int:
    """Warps that share a row of so many numbers."""
    return min(8, max(1, padded(width) // ROW_NUMBERS_PER_WARP))


def heads_at_once(heads: int, head_size: int) -> int:
    """As many of a token's heads as one program takes."""
    return min(padded(heads), max(1, BLOCK_NUMBERS // padded(head_size)))


def _descriptor(x: torch.Tensor, keys: int) -> TensorDescriptor:
    """A cache as rows of all heads, read in blocks of one head's keys."""
    rows = x.view(-1, x.shape[2] * x.shape[3])
    return TensorDescriptor.from_tensor(rows, [keys, x.shape[3]])
