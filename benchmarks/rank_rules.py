"""What configurations are worth timing, which of the timed ones wins, and configs.json's text.

An entry is a kind's part of a rule of `kernels/gpu/configs.json`; a rule holds for heads of up to
`head_bytes`. Times are seconds.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import product
from typing import Any

from hfx.kernels.gpu.configs import FALLBACK, Kind

from .target_compiler import CORES, SHARED_PER_PROGRAM, Core

Entry = dict[str, Any]
Rules = dict[str, list[Entry]]

MARGIN = 0.03  # a smaller gain is noise: the entry that is there stays
BUFFERS = {1: 1, 2: 1, 5: 2, 7: 3}  # blocks in shared memory, by stages
LARGE_ROWS, KEYS, WARPS, PROGRAMS = (32, 64, 128), (16, 32, 64, 128), (4, 8), (1, 2, 3, 4)
TENSOR_CORE_ROWS_PER_WARP = 8  # with fewer, some of a prompt's warps would have nothing to multiply


def candidates(architecture: str, kind: Kind, head_bytes: int) -> Iterator[Entry]:
    """Entries whose buffers fit that architecture's shared memory, one that isn't known has none.

    Those that need more registers than there are show when they are compiled or timed.
    """
    core = CORES.get(architecture)
    rows = (0,) if kind == "decode" else LARGE_ROWS
    has_descriptors = (False, True) if architecture in ("sm_90", "sm_100", "sm_120") else (False,)
    for tall, keys, warps, stages, programs, descriptors in product(
        rows, KEYS, WARPS, BUFFERS, PROGRAMS, has_descriptors
    ):
        if tall and tall < warps * TENSOR_CORE_ROWS_PER_WARP:
            continue
        if core is not None and not _fits(core, tall, keys, stages, programs, warps, head_bytes):
            continue
        entry: Entry = {"large": [tall, keys]} if tall else {}
        if kind != "prompt":
            entry["small_keys"] = keys
        entry |= {"warps": warps, "stages": stages, "programs_per_core": programs}
        yield entry | ({"descriptors": True} if descriptors else {})


def nearest(entries: Iterable[Entry], present: Entry, limit: int) -> list[Entry]:
    """The entry that is there, then up to `limit` others, those first that change least of it."""

    def changes(entry: Entry) -> int:
        return sum(entry.get(key) != present.get(key) for key in {*entry, *present})

    others = [entry for entry in entries if entry != present]
    return [present, *sorted(others, key=changes)[:limit]]


def _fits(
    core: Core, tall: int, keys: int, stages: int, programs: int, warps: int, head_bytes: int
) -> bool:
    shared_bytes = head_bytes * 2 * keys * BUFFERS[stages]
    return (
        shared_bytes <= core.program_shared_bytes
        and programs * (shared_bytes + SHARED_PER_PROGRAM) <= core.shared_bytes
        and programs * warps * 32 <= core.threads
    )


def scores(times_s: Mapping[int, Sequence[float]]) -> dict[int, float]:
    """Each candidate's times over the best of every shape, their geometric mean; 1 is the least.

    A candidate that couldn't run a shape (infinity) can't win.
    """
    shapes = range(len(next(iter(times_s.values()))))
    best = [min(times[i] for times in times_s.values()) for i in shapes]
    return {
        key: math.exp(sum(math.log(times[i] / best[i]) for i in shapes) / len(best))
        for key, times in times_s.items()
    }


def winner(scores: Mapping[int, float], present: int) -> int:
    """The best candidate, or the one that is there where that's hardly slower."""
    best = min(scores, key=lambda key: scores[key])
    return best if scores[best] < scores[present] * (1 - MARGIN) else present


def with_entry(rules: Rules, architecture: str, kind: Kind, head_bytes: int, entry: Entry) -> Rules:
    """The rules with that entry; an architecture without any starts from those of all others."""
    known = rules.get(architecture) or rules[FALLBACK]
    if not any(rule["head_bytes"] == head_bytes for rule in known):
        following = next(rule for rule in known if rule["head_bytes"] > head_bytes)
        known = sorted(
            [*known, following | {"head_bytes": head_bytes}], key=lambda rule: rule["head_bytes"]
        )
    own = [rule | ({kind: entry} if rule["head_bytes"] == head_bytes else {}) for rule in known]
    others = {name: kept for name, kept in rules.items() if name not in (architecture, FALLBACK)}
    if architecture in rules:
        return {name: own if name == architecture else rules[name] for name in rules}
    return others | {architecture: own, FALLBACK: rules[FALLBACK]}


def text_of(rules: Rules) -> str:
    """The file: one line an entry."""
    architectures = []
    for name, own in rules.items():
        lines = []
        for rule in own:
            parts = [f"{json.dumps(key)}: {json.dumps(value)}" for key, value in rule.items()]
            lines.append("    {" + ",\n     ".join(parts) + "}")
        architectures.append(f"  {json.dumps(name)}: [\n" + ",\n".join(lines) + "\n  ]")
    return "{\n" + ",\n".join(architectures) + "\n}\n"
