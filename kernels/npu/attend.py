"""The back end "triton_ascend": the Triton kernel on cube cores, for what the fused operator lacks.

The source is that of `kernels.gpu`, the tiles are in `tiles.json`: those that fit the vector cores'
buffer (`make ascend`). Persistent programs, one a cube core; split tiles are put together by a
launch of its own. The other operators are plain torch's.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import torch

from .. import probe
from ..batch import AttentionSpec, KVCache, RaggedBatch
from ..fallback import TorchOperators
from ..gpu import attend as attention
from ..gpu.configs import Kind, Launch
from ..gpu.work import GpuWork, kind_of
from ..library import LibraryOperators, probed_specs
from ..plan import WorkList

NEEDS = "needs triton-ascend 3.2.0"
DTYPES = (torch.float16, torch.bfloat16)
SMALL_ROWS = 16  # the least that tl.dot takes
PAGE_STEP = 128  # blocks of keys lie within a page
SLOTS_AT_ONCE = 16  # parts that a reduction loads together
PROBED = AttentionSpec(4, 2, 64, 128, torch.bfloat16)


class AscendTritonOperators(LibraryOperators):
    """Operators on that device, which has so many cube cores; `interpreted` is for tests."""

    name = "triton_ascend"

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
        self._interpreted = interpreted

    def rule(self, spec: AttentionSpec) -> str | None:
        if spec.dtype not in DTYPES:
            return f"computes in {', '.join(map(str, DTYPES))}, not in {spec.dtype}"
        if spec.is_quantised:
            return f"caches {spec.dtype}, not {spec.stored_dtype}"
        if spec.head_size not in _tiles():
            return f"has tiles for heads of {', '.join(map(str, _tiles()))}, not {spec.head_size}"
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
        launch = _launch(spec.head_size, kind, split_tokens)
        return GpuWork.planned(spec, batch, launch, self._cores, self._device, fixed=is_fixed)

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
            None,
            None,
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
            W=spec.head_size,
            PAGE=spec.page_tokens,
            WINDOW=spec.window,
            HAS_CAP=spec.softcap > 0,
            HAS_SINKS=spec.sinks,
            SCALING="",
            ADDRESSING="page",
            LARGE_ROWS=launch.large_rows,
            LARGE_KEYS=launch.large_keys,
            SMALL_ROWS=launch.small_rows,
            SMALL_KEYS=launch.small_keys,
            PARTIAL_ROWS=launch.partial_rows,
            PRECISION="ieee",
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
            W=spec.head_size,
            PARTIAL_ROWS=work.launch.partial_rows,
            SLOTS=SLOTS_AT_ONCE,
            WIDEN=self._interpreted,
        )


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
    specs = probed_specs(PROBED, ("window", "softcap", "sinks"))
    return probe.refusals(AscendTritonOperators(device, cores), specs, device)


def _launch(head_size: int, kind: Kind, split_tokens: int | None) -> Launch:
    """How a specialisation runs; warps and stages mean nothing on these cores."""
    tile = _tiles()[head_size][kind]
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
def _tiles() -> dict[int, dict[str, Any]]:
    rules = json.loads(Path(__file__).with_name("tiles.json").read_text())
    return {rule["head_size"]: rule for rule in rules}
