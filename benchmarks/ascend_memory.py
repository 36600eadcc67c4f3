"""Bytes of an Ascend core's memories that a compiled kernel uses, read from its planned HIVM."""

import math
import re
from collections.abc import Iterable

# as HIVM calls them: the vector cores' buffer, the cube core's L1 and its accumulators
MEMORIES = {"ub": "ub_bytes", "cbuf": "l1_bytes", "cc": "l0c_bytes"}
LIMITS = {"ub_bytes": 192 << 10, "l1_bytes": 512 << 10, "l0c_bytes": 128 << 10}  # Atlas A2 and A3
BITS = {"i1": 1, "i8": 8, "i16": 16, "f16": 16, "bf16": 16, "i32": 32, "f32": 32, "i64": 64}

_CONSTANT = re.compile(r"(%\S+) = arith\.constant (\d+) : i64")
_BUFFER = re.compile(
    r"pointer_cast\((?P<addresses>[^)]*)\)[^:]*: memref<(?P<shape>[\dx]*x)?(?P<type>[a-z]+\d+)"
    r"[^#]*#hivm\.address_space<(?P<memory>\w+)>"
)
_OVERFLOW = re.compile(r"(\w+) overflow, requires (\d+) bits while (\d+) bits")


def used_bytes(hivm: str) -> dict[str, int]:
    """The end of the last buffer in each memory.

    Raises:
        ValueError: a buffer is planned in a form that isn't known here.
    """
    addresses = {name: int(value) for name, value in _CONSTANT.findall(hivm)}
    used = dict.fromkeys(MEMORIES.values(), 0)
    for line in hivm.splitlines():
        if "pointer_cast" not in line or "address_space<gm>" in line:
            continue
        found = _BUFFER.search(line)
        if found is None or found["memory"] not in MEMORIES:
            raise ValueError(f"a buffer that this can't read: {line.strip()}")
        numbers = math.prod(int(size) for size in (found["shape"] or "").split("x") if size)
        size = -(-numbers * BITS[found["type"]] // 8)
        ends = (addresses[name.strip()] + size for name in found["addresses"].split(","))
        column = MEMORIES[found["memory"]]
        used[column] = max(used[column], *ends)
    return used


def overflow(complaint: str) -> str | None:
    """Which memory the compiler ran out of, in its own words, or None."""
    found = _OVERFLOW.search(complaint)
    if found is None:
        return None
    memory, needed, there = found.groups()
    return f"{memory} overflow: {int(needed) // 8192} KiB of {int(there) // 8192}"


def beyond_limits(used: dict[str, int]) -> Iterable[str]:
    """What doesn't fit. Nearly full is fine: loads are buffered as often as there is room."""
    for name, limit in LIMITS.items():
        if used[name] > limit:
            yield f"{name} {used[name]} is more than {limit}"
