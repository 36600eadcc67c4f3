"""Which tiles each architecture runs, read from `configs.json`; an unknown one gets small tiles.

A rule holds for heads of up to `head_bytes`, padded to a power of two, and an architecture's last
one for float32 too, which is multiplied outside of the tensor cores. Values are starting points,
chosen from resource tables (`python -m benchmarks.targets`); on a device they can be re-ranked.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any, Literal

from ..batch import AttentionSpec

Kind = Literal["prompt", "decode", "mixed"]
Addressing = Literal["page", "gather", "descriptor"]

KINDS: tuple[Kind, ...] = ("prompt", "decode", "mixed")
FALLBACK = "other"
RULES = Path(__file__).with_name("configs.json")
SMALL_ROWS = 16  # the least that tl.dot takes
SPLIT_TOKENS = 256  # a part's sums are written and read again: worth it from a few blocks on


@dataclass(frozen=True, slots=True, kw_only=True)
class Launch:
    """How one specialisation runs: rows and keys of its tiles (0 rows: none of that class)."""

    large_rows: int
    large_keys: int
    small_rows: int
    small_keys: int
    warps: int
    stages: int
    programs_per_core: int
    use_descriptors: bool
    split_tokens: int = SPLIT_TOKENS

    @property
    def partial_rows(self) -> int:
        """Rows that a split tile's sums have room for."""
        return max(self.large_rows, self.small_rows)

    @property
    def keys(self) -> int:
        """The most keys of a block."""
        return max(self.large_keys, self.small_keys)

    def addressing(self, spec: AttentionSpec) -> Addressing:
        """How blocks of keys are found and loaded."""
        if spec.page_tokens % self.keys:
            return "gather"
        same_keys = self.large_keys == self.small_keys or 0 in (self.large_keys, self.small_keys)
        is_padded = spec.head_size != padded(spec.head_size)
        return "descriptor" if self.use_descriptors and same_keys and not is_padded else "page"


def padded(size: int) -> int:
    """The next power of two: what a block of that many numbers occupies."""
    return 1 << max(0, size - 1).bit_length()


def architectures() -> tuple[str, ...]:
    """Those that have rules of their own."""
    return tuple(name for name in _rules() if name != FALLBACK)


def launch_of(architecture: str, kind: Kind, spec: AttentionSpec) -> Launch:
    """How a specialisation runs attention of that shape on that architecture."""
    rules = _rules().get(architecture, _rules()[FALLBACK])
    head_bytes = padded(spec.head_size) * spec.dtype.itemsize
    fits = [rule for rule in rules if head_bytes <= rule["head_bytes"]]
    rule = fits[0] if fits and spec.dtype.itemsize == 2 else rules[-1]
    return launch_from(rule[kind], spec)


def launch_from(entry: Mapping[str, Any], spec: AttentionSpec) -> Launch:
    """What an entry of `configs.json` means for attention of that shape."""
    launch = _launch(entry, is_quantised=spec.is_quantised)
    group = padded(spec.group)
    small_rows = max(SMALL_ROWS, group)
    return replace(
        launch,
        large_rows=max(launch.large_rows, group) if launch.large_rows else 0,
        small_rows=small_rows if launch.small_rows else 0,
    )


def constants(spec: AttentionSpec, launch: Launch, *, widen: bool) -> dict[str, Any]:
    """What `ragged_attention` is compiled for."""
    return {
        "G": spec.group,
        "M": spec.kv_heads,
        "H": spec.head_size,
        "W": padded(spec.head_size),
        "PAGE": spec.page_tokens,
        "WINDOW": spec.window,
        "HAS_CAP": spec.softcap > 0,
        "HAS_SINKS": spec.sinks,
        "SCALING": scaling(spec),
        "ADDRESSING": launch.addressing(spec),
        "LARGE_ROWS": launch.large_rows,
        "LARGE_KEYS": launch.large_keys,
        "SMALL_ROWS": launch.small_rows,
        "SMALL_KEYS": launch.small_keys,
        "PARTIAL_ROWS": launch.partial_rows,
        "WIDEN": widen,
    }


def scaling(spec: AttentionSpec) -> str:
    """The kernels' word for the scales of a cache, "" where it has none."""
    return spec.cache_scaling if spec.is_quantised else ""


def small_rows(spec: AttentionSpec) -> int:
    """How many rows a sequence may have to be a small tile."""
    return max(SMALL_ROWS, padded(spec.group))


def _launch(entry: Mapping[str, Any], *, is_quantised: bool) -> Launch:
    large_rows, large_keys = entry.get("large", (0, 0))
    small_keys = entry.get("small_keys", 0)
    return Launch(
        large_rows=large_rows,
        large_keys=large_keys,
        small_rows=SMALL_ROWS if small_keys else 0,
        small_keys=small_keys,
        warps=entry["warps"],
        stages=entry.get("quantised_stages" if is_quantised else "stages", entry["stages"]),
        programs_per_core=entry["programs_per_core"],
        use_descriptors=entry.get("descriptors", False),
    )


@cache
def _rules() -> dict[str, list[dict[str, Any]]]:
    rules: dict[str, list[dict[str, Any]]] = json.loads(RULES.read_text())
    return rules
