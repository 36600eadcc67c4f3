"""A Triton kernel compiled for a GPU that isn't there, and what it takes of that GPU's cores.

Compilers, assemblers and disassemblers come with the triton package.
"""

from __future__ import annotations

import re
import subprocess
import tempfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

CUOBJDUMP = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
REGISTERS_PER_SM = 65536
REGISTER_GRAIN = 256  # of a warp: registers are given out in such pieces
KIB = 1024


@dataclass(frozen=True, slots=True)
class Core:
    """What one SM or CU has: shared memory in bytes, of all its programs and of one; threads."""

    shared_bytes: int
    program_shared_bytes: int
    threads: int
    programs: int


CORES = {
    "sm_80": Core(164 * KIB, 163 * KIB, 2048, 32),
    "sm_86": Core(100 * KIB, 99 * KIB, 1536, 16),
    "sm_89": Core(100 * KIB, 99 * KIB, 1536, 24),
    "sm_90": Core(228 * KIB, 227 * KIB, 2048, 32),
    "sm_100": Core(228 * KIB, 227 * KIB, 2048, 32),
    "sm_120": Core(100 * KIB, 99 * KIB, 1536, 24),
    "gfx942": Core(64 * KIB, 64 * KIB, 2048, 32),
    "gfx950": Core(160 * KIB, 160 * KIB, 2048, 32),
}
SHARED_PER_PROGRAM = KIB  # what CUDA itself takes of every program's shared memory
SIMDS = 4  # of a CU
# What a kernel is fast by: tensor cores (of Hopper and Blackwell, of others, of AMD), and loads
# that don't pass through registers (of tiles by descriptor, of single pieces).
INSTRUCTIONS = re.compile(r"\b(HGMMA|UTCHMMA|HMMA|v_mfma|UTMALDG|LDGSTS)")
# Triton's ring of shared buffers that a loop's loads fill ahead: buffers, rows, columns, bits.
RING = re.compile(r"local_alloc : \(\) -> !ttg\.memdesc<(\d+)x(\d+)x(\d+)x[bfi]+(\d+)")


@dataclass(frozen=True, slots=True)
class Resources:
    """Of one program: registers a thread, spilled and shared bytes; programs that a core holds.

    `instructions` says how often each of `INSTRUCTIONS` is there, `rings` holds (buffers, bytes of
    one) of everything that is loaded ahead.
    """

    registers: int
    spill_bytes: int
    shared_bytes: int
    ctas_per_sm: int
    instructions: Counter[str]
    rings: tuple[tuple[int, int], ...]


def compiled(
    kernel: Any,
    target: str,
    types: dict[str, str],
    constants: dict[str, Any],
    *,
    warps: int,
    stages: int,
) -> Resources:
    """The kernel for that target, its arguments of those types or constants.

    Pointers and strides are taken for multiples of 16 bytes and numbers, as they are in serving.
    """
    names = kernel.arg_names
    signature = {name: types.get(name, "constexpr") for name in names}
    missing = {name for name in names if name not in types}
    constants = {name: constants.get(name) for name in missing}
    aligned = [i for i, name in enumerate(names) if _is_aligned(name, signature[name])]
    attributes = {(i,): [["tt.divisibility", 16]] for i in aligned}
    source = ASTSource(kernel, signature, constants, attributes)
    options = {"num_warps": warps, "num_stages": stages, "enable_fp_fusion": True}
    built = triton.compile(source, target=_target(target), options=options)
    read = _nvidia if target.startswith("sm_") else _amd
    return read(built, CORES[target], warps)


def _target(name: str) -> GPUTarget:
    if name.startswith("sm_"):
        return GPUTarget("cuda", int(name.removeprefix("sm_")), 32)
    return GPUTarget("hip", name, 64)


def _is_aligned(name: str, kind: str) -> bool:
    return kind.startswith("*") or (name.endswith("stride") and name != "table_stride")


def _nvidia(built: Any, core: Core, warps: int) -> Resources:
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(built.asm["cubin"])
        file.flush()
        usage = _dumped(file.name, "--dump-resource-usage")
        assembly = _dumped(file.name, "--dump-sass")
    found = re.search(r"REG:(\d+) STACK:(\d+)", usage)
    assert found, usage
    registers = int(found[1])
    spill_bytes = int(found[2]) if re.search(r"\bSTL\b", assembly) else 0  # a frame may be unused
    shared_bytes = int(built.metadata.shared)
    of_warp = -(-registers * 32 // REGISTER_GRAIN) * REGISTER_GRAIN
    ctas = min(
        REGISTERS_PER_SM // (of_warp * warps),
        core.shared_bytes // (shared_bytes + SHARED_PER_PROGRAM),
        core.threads // (32 * warps),
        core.programs,
    )
    return Resources(
        registers, spill_bytes, shared_bytes, ctas, _instructions(assembly), _rings(built)
    )


def _amd(built: Any, core: Core, warps: int) -> Resources:
    assembly = built.asm["amdgcn"]

    def number(pattern: str) -> int:
        found = re.search(pattern, assembly)
        assert found, pattern
        return int(found[1])

    shared_bytes = int(built.metadata.shared)
    waves = number(r"; Occupancy: (\d+)") * SIMDS
    ctas = min(waves // warps, core.shared_bytes // max(1, shared_bytes))
    return Resources(
        number(r"\.vgpr_count:\s*(\d+)"),
        number(r"\.private_segment_fixed_size:\s*(\d+)"),
        shared_bytes,
        ctas,
        _instructions(assembly),
        _rings(built),
    )


def _instructions(assembly: str) -> Counter[str]:
    return Counter(INSTRUCTIONS.findall(assembly))


def _rings(built: Any) -> tuple[tuple[int, int], ...]:
    found = (map(int, numbers) for numbers in RING.findall(built.asm["ttgir"]))
    return tuple((buffers, rows * columns * bits // 8) for buffers, rows, columns, bits in found)


def _dumped(file: str, what: str) -> str:
    return subprocess.run(
        [CUOBJDUMP, what, file], capture_output=True, text=True, check=True
    ).stdout
