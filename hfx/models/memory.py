"""Whether a model's weights fit this machine's memory, asked before any of it is spent. Bytes."""

from __future__ import annotations

import os
from pathlib import Path

import torch

from .spec import DecoderSpec

MEMINFO = Path("/proc/meminfo")
CGROUPS = (  # (limit, use) of version 2 and of version 1, as a container sees its own
    (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory.current")),
    (
        Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"),
        Path("/sys/fs/cgroup/memory/memory.usage_in_bytes"),
    ),
)
GIB = 1 << 30


def weight_bytes(spec: DecoderSpec, itemsize: int, *, packed: bool = True) -> int:
    """What the loaded decoder occupies, position table included.

    Where linears are `packed`, a tied embedding counts twice: rows are looked up in one form and
    multiplied in another.
    """
    tied = spec.vocabulary * spec.width if packed and spec.tied_embeddings else 0
    positions = 4 * spec.max_positions * spec.head_size
    return (spec.parameters + tied) * itemsize + positions


def available_bytes() -> int | None:
    """Memory that this process could still take, or None where the system doesn't say."""
    found = [
        value for value in (_meminfo_bytes(), *map(_cgroup_bytes, CGROUPS)) if value is not None
    ]
    return min(found) if found else None


def free_bytes(device: torch.device) -> int | None:
    """Memory that could still be taken there, or None where the system doesn't say."""
    if device.type == "cpu":
        return available_bytes()
    free, _ = getattr(torch, device.type).mem_get_info(device)
    return int(free)


def check_fits(needed_bytes: int, what: str, device: torch.device) -> None:
    """Raise unless so much memory is available there.

    Raises:
        MemoryError: it isn't; the message says how much is needed and how much there is.
    """
    available = free_bytes(device)
    if available is not None and needed_bytes > available:
        where = "" if device.type == "cpu" else f" on {device}"
        raise MemoryError(
            f"{what} needs {needed_bytes / GIB:.2f} GiB for its weights, and "
            f"{available / GIB:.2f} GiB of memory are available{where}: free some, or take a "
            "smaller model or dtype"
        )


def _meminfo_bytes() -> int | None:
    if MEMINFO.is_file():
        for line in MEMINFO.read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    if "SC_AVPHYS_PAGES" in os.sysconf_names:
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return None


def _cgroup_bytes(files: tuple[Path, Path]) -> int | None:
    limit, used = files
    try:
        text = limit.read_text().strip()
        return None if text == "max" else int(text) - int(used.read_text())
    except (OSError, ValueError):
        return None  # no such cgroup here
