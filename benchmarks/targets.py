"""What every Triton kernel takes of every GPU that it's meant for: static, not timed, no device.

    .venv/bin/python -m benchmarks.targets [--only WORD] [--ci]

A row isn't ok where a kernel doesn't compile or fit, spills more than targets.json allows it, lacks
the instructions that its GPU is fast by, or keeps too few bytes on their way. An allowance has a
reason, and one that is larger than what it's needed for isn't ok either: it can only be tightened.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import cache
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch

from hfx.kernels import AttentionSpec
from hfx.kernels.gpu import attend, ffn, norm, rope, sample
from hfx.kernels.gpu import cache as caches
from hfx.kernels.gpu.configs import KINDS, Kind, Launch, constants, launch_of, padded
from hfx.kernels.gpu.operators import BLOCK_NUMBERS, SLOTS_AT_ONCE, heads_at_once, row_warps

from .ascend_table import RECORDED, recorded
from .record import print_rows
from .target_compiler import CORES, Resources, compiled

TARGETS = ("sm_80", "sm_90", "sm_100", "sm_120", "gfx942", "gfx950")
SMALLER = ("sm_86", "sm_89")  # sm_80's instructions and less shared memory: attention alone
ALLOWANCES = Path(__file__).with_name("targets.json")
COLUMNS = (
    "kernel", "target", "registers", "spill_bytes", "shared_bytes", "ctas_per_sm", "ub_bytes",
    "reason", "ok", "instructions", "bytes_in_flight",
)  # fmt: skip
PAGE, GROUP, KV_HEADS = 64, 4, 8
DECODE_BYTES_IN_FLIGHT = 64 * 1024  # of an sm_90 SM: its bandwidth times the latency of memory
TENSOR_CORES = {"sm_90": "HGMMA", "sm_100": "UTCHMMA"}  # those that a warp group drives
TENSOR_CORE_ROWS = 64  # the least that they take: smaller tiles run on HMMA
TYPES = {
    torch.float16: "fp16",
    torch.bfloat16: "bf16",
    torch.float32: "fp32",
    torch.int8: "i8",
    torch.float8_e4m3fn: "fp8e4nv",
}
POINTERS = {
    "partial": "*fp32", "stats": "*fp32", "sinks_N": "*fp32", "counts": "*i32", "items": "*i32",
    "table": "*i32", "reductions": "*i32", "score_scale": "fp32", "softcap": "fp32",
    "q_stride": "i32", "out_stride": "i32", "table_stride": "i32",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Case:
    """One kernel with all its constants; `launch` where it's attention."""

    name: str
    target: str
    kernel: Any
    types: dict[str, str]
    constants: dict[str, Any]
    warps: int = 4
    stages: int = 2
    spec: AttentionSpec | None = None
    launch: Launch | None = None


def cases() -> Iterator[Case]:
    """Everything that serving launches, for every target."""
    for target in TARGETS:
        yield from _plain_cases(target)
        yield from _feature_cases(target)
        yield from _small_cases(target)
    for target in SMALLER:
        yield from _plain_cases(target)
    for size in (64, 256):
        spec = _spec(size, cache_dtype=torch.float8_e4m3fn)
        yield _attention(f"decode D{size} float8", "sm_90", "decode", spec)


def ci_cases() -> list[Case]:
    """Those that are compiled on every change: the kernels with most in them, and some features."""
    chosen = {("sm_90", f"{kind} D128") for kind in KINDS}
    chosen |= {("sm_90", name) for name in ("decode D128 float8", "decode D128 page 16")}
    chosen |= {("sm_100", "decode D128"), ("sm_80", "prompt D128 window cap sinks")}
    chosen |= {("gfx942", "rope_kv_write"), ("gfx942", "reduce"), ("sm_80", "sample")}
    chosen |= {(target, "mixed D128") for target in (*TARGETS, *SMALLER)}
    chosen |= {("sm_86", "prompt D128"), ("sm_89", "decode D128")}
    return [case for case in cases() if (case.target, case.name) in chosen]


def _spec(size: int = 128, page: int = PAGE, **more: Any) -> AttentionSpec:
    dtype = more.pop("dtype", torch.bfloat16)
    return AttentionSpec(GROUP * KV_HEADS, KV_HEADS, size, page, dtype, **more)


def _plain_cases(target: str) -> Iterator[Case]:
    """Each specialisation of each size, and a cache of 8 bits."""
    for size in (64, 128, 256):
        for kind in KINDS:
            yield _attention(f"{kind} D{size}", target, kind, _spec(size))
    eight = torch.int8 if target in ("sm_80", "sm_86") else torch.float8_e4m3fn
    name = str(eight).removeprefix("torch.").removesuffix("_e4m3fn")
    yield _attention(f"decode D128 {name}", target, "decode", _spec(cache_dtype=eight))


def _feature_cases(target: str) -> Iterator[Case]:
    features = _spec(window=1024, softcap=30.0, sinks=True)
    yield _attention("prompt D128 window cap sinks", target, "prompt", features)
    yield _attention("decode D128 window cap sinks", target, "decode", features)
    yield _attention("decode D128 page 16", target, "decode", _spec(page=16))
    yield _attention("decode D80", target, "decode", _spec(80))
    yield _attention("mixed D128 float32", target, "mixed", _spec(dtype=torch.float32))


def _attention(name: str, target: str, kind: Kind, spec: AttentionSpec) -> Case:
    launch = launch_of(target, kind, spec)
    addressing = launch.addressing(spec)
    cached = f"*{TYPES[spec.stored_dtype]}"
    if addressing == "descriptor":
        cached = f"tensordesc<{cached[1:]}[{launch.keys},{spec.head_size}]>"
    row = f"*{TYPES[spec.dtype]}"
    types = POINTERS | {"q": row, "out": row, "k": cached, "v": cached}
    if spec.is_quantised:
        types |= {"k_scale": "*fp32", "v_scale": "*fp32"}
    if not spec.sinks:
        del types["sinks_N"]
    return Case(
        name,
        target,
        attend.ragged_attention,
        {name: kind for name, kind in types.items() if name != "reductions"},
        constants(spec, launch, widen=False),
        launch.warps,
        launch.stages,
        spec,
        launch,
    )


def _small_cases(target: str) -> Iterator[Case]:
    """The operators around attention, for a model of 32 heads of 128 and bfloat16."""
    size, width, vocabulary_block = 128, 4096, sample.BLOCK
    heads = heads_at_once(GROUP * KV_HEADS, size)
    row = "*bf16"
    cached = "*i8" if target == "sm_80" else "*fp8e4nv"
    written = {"k": row, "v": row, "k_cache": cached, "v_cache": cached, "k_scale": "*fp32",
               "v_scale": "*fp32", "slots_T": "*i64", "k_stride": "i32",
               "v_stride": "i32"}  # fmt: skip
    shape = {"M": KV_HEADS, "H": size, "W": size, "SCALING": "token", "WIDEN": False}
    yield Case("kv_write", target, caches.kv_write, written, shape | {"HEADS": KV_HEADS})
    turned = {"q": row, "positions_T": "*i32", "table": "*fp32", "q_stride": "i32"}
    turning = {"N": GROUP * KV_HEADS, "R": size, "NEOX": True, "WRITES": True, "HEADS": heads,
               "PAIRS": size // 2}  # fmt: skip
    yield Case("rope_kv_write", target, rope.rope, written | turned, shape | turning)
    left = {"out": row, "partial": "*fp32", "stats": "*fp32", "counts": "*i32",
            "reductions": "*i32", "out_stride": "i32"}  # fmt: skip
    tile = {"G": GROUP, "M": KV_HEADS, "H": size, "W": size, "PARTIAL_ROWS": 64,
            "SLOTS": SLOTS_AT_ONCE, "WIDEN": False}  # fmt: skip
    yield Case("reduce", target, attend.reduce_splits, left, tile)
    strides = ("x_stride", "x_head_stride", "residual_stride", "out_stride", "out_head_stride")
    normed = {"x": row, "weight": row, "residual": row, "out": row, "eps": "fp32"}
    normed |= dict.fromkeys(strides, "i32")
    whole = {"D": width, "W": padded(width), "HAS_RESIDUAL": True, "WIDEN": False}
    yield Case("rms_norm", target, norm.rms_norm, normed, whole, row_warps(width))
    gated = {"gate_up": row, "out": row, "gate_up_stride": "i32", "out_stride": "i32"}
    block = {"BLOCK": BLOCK_NUMBERS // 4, "WIDEN": False}
    yield Case("silu_mul", target, ffn.silu_mul, gated | {"width": "i32"}, block)
    drawn = dict.fromkeys(("logits", "temperature_R", "top_p_R", "min_p_R"), "*fp32")
    drawn |= {"top_k_R": "*i32", "step_R": "*i32", "seed_R": "*i64", "tokens_R": "*i64"}
    drawn |= {"V": "i32", "stride": "i32"}
    yield Case("sample", target, sample.sample_rows, drawn, {"BLOCK": vocabulary_block}, 8)


def row_of(case: Case) -> dict[str, object]:
    """The case's line of the table."""
    try:
        found = compiled(
            case.kernel,
            case.target,
            case.types,
            case.constants,
            warps=case.warps,
            stages=case.stages,
        )
    except Exception as failure:  # compilers raise anything; the row says what
        error: BaseException = failure
        while error.__cause__ is not None:  # the kernel's own line comes last
            error = error.__cause__
        return _row(case, None, " ".join(str(error).split())[-200:], ok=False)
    objection = _objection(case, found)
    allowance = _allowances().get((case.name, case.target))
    return _row(case, found, objection or (allowance or {}).get("reason"), ok=objection is None)


def _row(case: Case, found: Resources | None, reason: str | None, *, ok: bool) -> dict[str, object]:
    row: dict[str, object] = dict.fromkeys(COLUMNS)
    row |= {"kernel": case.name, "target": case.target, "reason": reason, "ok": ok}
    if found is not None:
        row |= {
            "registers": found.registers,
            "spill_bytes": found.spill_bytes,
            "shared_bytes": found.shared_bytes,
            "ctas_per_sm": found.ctas_per_sm,
            "instructions": " ".join(sorted(found.instructions)) or None,
            "bytes_in_flight": _bytes_in_flight(case, found),
        }
    return row


def _objection(case: Case, found: Resources) -> str | None:
    """What is wrong with what a kernel takes, or None."""
    allowed = _allowances().get((case.name, case.target), {"spill_bytes": 0})["spill_bytes"]
    if found.spill_bytes > allowed:
        return f"spills: {allowed} bytes are allowed"
    if found.spill_bytes < allowed:
        return f"{allowed} bytes of spills are allowed: tighten it to {found.spill_bytes}"
    if found.shared_bytes > CORES[case.target].program_shared_bytes:
        return f"a program has {CORES[case.target].program_shared_bytes} shared bytes"
    missing = [name for name in _expected(case) if name not in found.instructions]
    if missing:
        return f"has no {', '.join(missing)}"
    if case.launch is None:
        return None
    if found.ctas_per_sm < case.launch.programs_per_core:
        return f"{case.launch.programs_per_core} programs are launched a core"
    in_flight = _bytes_in_flight(case, found)
    if case.target == "sm_90" and in_flight is not None and in_flight < DECODE_BYTES_IN_FLIGHT:
        return f"keeps {in_flight} bytes in flight of {DECODE_BYTES_IN_FLIGHT}"
    return None


def _expected(case: Case) -> list[str]:
    """Instructions that the case would be slow without."""
    if case.spec is None or case.launch is None or case.spec.dtype == torch.float32:
        return []
    if case.target.startswith("gfx"):
        return ["v_mfma"]
    names = set()
    if case.launch.addressing(case.spec) == "descriptor":
        names.add("UTMALDG")
    elif case.launch.stages > 1:
        names.add("LDGSTS")
    if case.launch.large_rows:
        has_own = case.launch.large_rows >= TENSOR_CORE_ROWS
        names.add(TENSOR_CORES.get(case.target, "HMMA") if has_own else "HMMA")
    if case.launch.small_rows:
        names.add("HMMA")
    return sorted(names)


def _bytes_in_flight(case: Case, found: Resources) -> int | None:
    """Keys and values that the programs of a core have on their way at any time, of a decode.

    A program that computes with one of its buffers loads into the others: with only one, nothing
    is on its way meanwhile.
    """
    if case.spec is None or case.launch is None or case.launch.large_rows:
        return None
    block = case.launch.keys * padded(case.spec.head_size) * case.spec.stored_dtype.itemsize
    buffers = min((buffers for buffers, size in found.rings if size == block), default=0)
    return case.launch.programs_per_core * 2 * block * max(0, buffers - 1)


@cache
def _allowances() -> dict[tuple[str, str], dict[str, Any]]:
    entries = json.loads(ALLOWANCES.read_text())
    return {(entry["kernel"], entry["target"]): entry for entry in entries}


def _row_called(key: tuple[str, str]) -> dict[str, object]:
    return next(row_of(case) for case in cases() if (case.target, case.name) == key)


def _with_ascend(rows: list[dict[str, object]], path: Path, only: str) -> list[dict[str, object]]:
    """Those rows and the recorded ones, whose compilers live in an environment of their own."""
    table = recorded(path)
    print(table.label)
    names = (*COLUMNS, "l0c_bytes")
    chosen = [row for row in table.rows if only in f"{row['target']} {row['kernel']}"]
    return [{name: row.get(name) for name in names} for row in (*rows, *chosen)]


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the rows")
    parser.add_argument("--only", default="", metavar="WORD", help="cases with that in a name")
    parser.add_argument("--ci", action="store_true", help="what is compiled on every change")
    parser.add_argument("--ascend", type=Path, default=RECORDED, help="rows of `make ascend`")
    options = parser.parse_args()
    chosen = ci_cases() if options.ci else list(cases())
    keys = [(case.target, case.name) for case in chosen]
    keys = [key for key in keys if options.only in " ".join(key)]
    with ProcessPoolExecutor(os.cpu_count(), get_context("spawn")) as pool:
        rows = list(pool.map(_row_called, keys))
    print("static, not timed")
    if not options.ci:
        rows = _with_ascend(rows, options.ascend, options.only)
    print_rows(rows)
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1))
    return 0 if all(row["ok"] for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
