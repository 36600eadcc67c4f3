"""Which instruction set the kernels use: the best that this processor has, or the one asked for."""

from __future__ import annotations

import os

from hfx.kernels import _cpu

ISAS = ("avx2", "avx512", "avx512bf16", "amx")  # index: the level that the C++ side takes


def available_isas() -> tuple[str, ...]:
    """Those that this processor can run, least first."""
    return ISAS[: _cpu.cpu_level() + 1]


def level_of(isa: str | None) -> int:
    """The level of an instruction set, or of the best (None).

    Raises:
        ImportError: this processor can't run it, or none at all.
        ValueError: there is no such instruction set.
    """
    if isa is not None and isa not in ISAS:
        raise ValueError(f"instruction set {isa!r} is none of {', '.join(ISAS)}")
    available = available_isas()
    if not available:
        raise ImportError(f"needs a processor with AVX2 and FMA, at least, for {ISAS[0]}")
    if isa is not None and isa not in available:
        raise ImportError(f"this processor cannot run {isa}: it has {', '.join(available)}")
    return ISAS.index(isa or available[-1])


# Read once, when the back end loads: to see what older processors get, or to work around a bug.
FORCED_ISA = os.environ.get("HFX_CPU_ISA") or None
