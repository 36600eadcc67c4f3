"""The back end "triton_ascend": Triton's attention on cube cores, small operators on vector cores.

The source of attention is that of `kernels.gpu`, the tiles are in `tiles.json`: those that fit the
vector cores' buffer with every feature (`make ascend`). Persistent programs, one a cube core; split
tiles are put together by a launch of its own. Over int8 caches a mixed step has large tiles only:
both classes in one kernel take Ascend's compiler minutes. So fixed splits cut no decode there.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import torch

from .. import probe
from ..batch import AttentionSpec, Int32Array, Int64Array, KVCache, RaggedBatch
from ..draws import Draws
from ..fallback import TorchOperators
from ..gpu import attend as attention
from ..gpu.configs import Kind, Launch, padded, scaling
from ..gpu.work import GpuWork, kind_of
from ..library import LibraryOperators, probed_specs
from ..operators import RopeStyle
from ..plan import WorkList
from .trial import wrong_small_operators
from .vector import WIDEST_NORM, VectorCores

NEEDS = "needs triton-ascend 3.2.0"
DTYPES = (torch.float16, torch.bfloat16)
HEAD_SIZES = (64, 80, 96, 128, 192, 256)
SMALL_ROWS = 16  # the least that tl.dot takes
PAGE_STEP = 128  # blocks of keys lie within a page
SLOTS_AT_ONCE = 16  # parts that a reduction loads together
VECTOR_CORES = 2  # of a cube core
PROBED = AttentionSpec(4, 2, 64, 128, torch.bfloat16)


class AscendTritonOperators(LibraryOperators):
    """Operators on that device, which has so many cube cores; `interpreted` is for tests.

    What `refused` names is left to plain torch, as are norms wider than a core's buffer.
    """

    name = "triton_ascend"
    compiles = True

    def __init__(
        self,
        device: torch.device,
        cores: int,
        refused: Mapping[str, str] | None = None,
        *,
        interpreted: bool = False,
    ) -> None:
        super().__init__(TorchOperators(device), device, refused)
        self._cores = cores
        self._vector = VectorCores(VECTOR_CORES * cores, interpreted)
        self._interpreted = interpreted
        self._planned: GpuWork | None = None
        self.samples = "sample" not in self._refused

    @property
    def detail(self) -> str:
        return f"{self._cores} cube cores"

    def rule(self, spec: AttentionSpec) -> str | None:
        if spec.dtype not in DTYPES:
            return f"computes in {', '.join(map(str, DTYPES))}, not in {spec.dtype}"
        if spec.stored_dtype == torch.float8_e4m3fn:
            # its front end: "unexpected type fp8"; the cube cores of Atlas A2 and A3 have none
            return "has no float8_e4m3fn: store torch.int8"
        if spec.head_size not in HEAD_SIZES:
            return f"has tiles for heads of {', '.join(map(str, HEAD_SIZES))}, not {spec.head_size}"
        if spec.page_tokens % PAGE_STEP:
            return f"needs pages of a multiple of {PAGE_STEP} tokens, not {spec.page_tokens}"
        if spec.group > SMALL_ROWS:
            return f"takes groups of up to {SMALL_ROWS} heads, not {spec.group}"
        return None

    def plan(
        self, spec: AttentionSpec, batch: RaggedBatch, *, split_tokens: int | None = None
    ) -> GpuWork:
        is_fixed = split_tokens is not None
        # one specialisation for any company where bits must not depend on it
        kind = "mixed" if is_fixed else kind_of(spec, batch, SMALL_ROWS)
        launch = _launch(spec, kind, split_tokens)
        self._planned = GpuWork.planned(
            spec, batch, launch, self._cores, self._device, fixed=is_fixed
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
        attention.ragged_attention[(work.programs,)](
            q_TNH,
            cache.k,
            cache.v,
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
            G=spec.group,
            M=spec.kv_heads,
            H=spec.head_size,
            W=padded(spec.head_size),
            PAGE=spec.page_tokens,
            WINDOW=spec.window,
            HAS_CAP=spec.softcap > 0,
            HAS_SINKS=spec.sinks,
            SCALING=scaling(spec),
            ADDRESSING="page",
            LARGE_ROWS=launch.large_rows,
            LARGE_KEYS=launch.large_keys,
            SMALL_ROWS=launch.small_rows,
            SMALL_KEYS=launch.small_keys,
            PARTIAL_ROWS=launch.partial_rows,
            WIDEN=self._interpreted,
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
            WIDEN=self._interpreted,
        )

    def kv_write(
        self, cache: KVCache, k_TMH: torch.Tensor, v_TMH: torch.Tensor, slots_T: Int64Array
    ) -> None:
        if "kv_write" in self._refused or not len(slots_T):
            return self._rest.kv_write(cache, k_TMH, v_TMH, slots_T)
        self._vector.kv_write(cache, k_TMH, v_TMH, self._on_device(slots_T))

    def rms_norm(
        self,
        x: torch.Tensor,
        weight_D: torch.Tensor,
        eps: float,
        residual: torch.Tensor | None = None,
        out: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        if "rms_norm" in self._refused or x.shape[-1] > WIDEST_NORM or not x.numel():
            return self._rest.rms_norm(x, weight_D, eps, residual, out)
        if out is None:
            out = torch.empty(x.shape, dtype=x.dtype, device=x.device)
        self._vector.rms_norm(x, weight_D, eps, residual, out)
        return out, x if residual is None else residual

    def rope_(
        self,
        q_TNH: torch.Tensor,
        k_TMH: torch.Tensor,
        positions_T: Int32Array,
        table_PR: torch.Tensor,
        style: RopeStyle,
    ) -> None:
        if "rope" in self._refused or not len(positions_T):
            return self._rest.rope_(q_TNH, k_TMH, positions_T, table_PR, style)
        self._vector.rope(q_TNH, k_TMH, None, self._on_device(positions_T), table_PR, style)

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
        # interleaved pairs on their way into 8 bits need more than twice what a core holds
        overflows = style == "llama" and cache.spec.is_quantised
        if overflows or "rope_kv_write" in self._refused or not len(slots_T):
            self.rope_(q_TNH, k_TMH, positions_T, table_PR, style)
            return self.kv_write(cache, k_TMH, v_TMH, slots_T)
        positions, slots = self._on_device(positions_T), self._on_device(slots_T)
        self._vector.rope(q_TNH, k_TMH, v_TMH, positions, table_PR, style, cache, slots)

    def silu_mul(self, gate_up_T2F: torch.Tensor, out: torch.Tensor | None = None) -> torch.Tensor:
        if "silu_mul" in self._refused or not gate_up_T2F.numel():
            return self._rest.silu_mul(gate_up_T2F, out)
        if out is None:
            shape = (gate_up_T2F.shape[0], gate_up_T2F.shape[1] // 2)
            out = torch.empty(shape, dtype=gate_up_T2F.dtype, device=gate_up_T2F.device)
        self._vector.silu_mul(gate_up_T2F, out)
        return out

    def sample(self, logits_RV: torch.Tensor, draws: Draws) -> torch.Tensor:
        if not len(logits_RV):
            return torch.empty(0, dtype=torch.int64, device=logits_RV.device)
        return self._vector.sample(logits_RV, draws)

    def _on_device(self, values: Int32Array | Int64Array) -> torch.Tensor:
        """The array's copy on the device, the planned step's own where it's that."""
        planned = self._planned
        if planned is not None and values is planned.batch.positions_T:
            return planned.positions_T
        if planned is not None and values is planned.batch.slots_T:
            return planned.slots_T
        return self._upload(values)


def load(device: torch.device) -> AscendTritonOperators:
    """The operators, once the kernel has been tried on that device.

    Raises:
        ImportError: the Triton that is installed isn't Ascend's, or attention is wrong here.
    """
    cores = _cube_cores(device)
    refused = _refused(device, cores)
    fatal = refused.get("causal attention")
    if fatal is not None:
        raise ImportError(f"{NEEDS}: its attention {fatal}")
    return AscendTritonOperators(device, cores, refused)


def _cube_cores(device: torch.device) -> int:
    try:
        from triton.runtime import driver

        properties = driver.active.utils.get_device_properties(device.index or 0)
        return int(properties["num_aicore"])
    except Exception as error:  # no driver, another vendor's, or a CANN that can't be asked
        raise ImportError(f"{NEEDS}: asking for cube cores {probe.failure(error)}") from error


@cache
def _refused(device: torch.device, cores: int) -> Mapping[str, str]:
    """What is wrong there, found once a process."""
    refused = wrong_small_operators(
        AscendTritonOperators(device, cores), TorchOperators(device), device
    )
    specs = probed_specs(PROBED, ("window", "softcap", "sinks", "int8 caches"))
    return refused | probe.refusals(AscendTritonOperators(device, cores, refused), specs, device)


def _launch(spec: AttentionSpec, kind: Kind, split_tokens: int | None) -> Launch:
    """How a specialisation runs; warps and stages mean nothing on these cores."""
    rule = _tiles()[padded(spec.head_size), spec.is_quantised]
    costly = f"{kind} window sinks" if spec.window and spec.sinks else kind
    tile = rule.get(costly, rule[kind])
    large_rows, large_keys = tile.get("large", (0, 0))
    small_keys = tile.get("small_keys", 0)
    launch = {
        "large_rows": large_rows,
        "large_keys": large_keys,
        "small_rows": SMALL_ROWS if small_keys else 0,
        "small_keys": small_keys,
    }
    splits = {} if split_tokens is None else {"split_tokens": split_tokens}
    return Launch(**launch, **splits, warps=1, stages=1, programs_per_core=1, use_descriptors=False)


@cache
def _tiles() -> dict[tuple[int, bool], dict[str, Any]]:
    """By the padded head size and whether the cache is quantised."""
    rules = json.loads(Path(__file__).with_name("tiles.json").read_text())
    return {(rule["width"], rule["quantised"]): rule for rule in rules}
