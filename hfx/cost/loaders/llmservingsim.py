"""LLMServingSim's profiler tables: one layer's attention of a chunk beside equal decodes, and the
other operations by tokens and by sequences (microseconds)."""

from __future__ import annotations

from pathlib import Path

from .compose import Attention, Curve, Step, steps
from .table import number, rows

PER_LAYER = {
    "qkv_proj": 1,
    "o_proj": 1,
    "gate_up_proj": 1,
    "down_proj": 1,
    "act_fn": 1,
    "rotary_emb": 1,
    "layernorm": 2,
}
ONCE = {"embedding": 1, "final_layernorm": 1}
PER_SEQUENCE = {"lm_head": 1, "sampler": 1}


def load(attention: Path, dense: Path, per_sequence: Path, *, layers: int) -> list[Step]:
    """Whole steps of a model with that many layers.

    Raises:
        ValueError: a table lacks a column or an operation.
    """
    counts = {name: layers * times for name, times in PER_LAYER.items()} | ONCE
    body = _curve(dense, "tokens", counts)
    head = _curve(per_sequence, "sequences", PER_SEQUENCE)
    return steps(list(_attention(attention)), layers, body, head)


def _attention(path: Path) -> list[Attention]:
    names = ("prefill_chunk", "kv_prefill", "n_decode", "kv_decode", "time_us")
    found = []
    for row in rows(path, {name: (name,) for name in names}):
        chunk, cached, decodes, context, micros = (number(row, name) for name in names)
        pairs = [(1, int(context) - 1)] * int(decodes)  # their kv counts the new token
        if chunk:
            pairs.append((int(chunk), int(cached)))
        found.append(Attention(tuple(pairs), micros * 1e-6))
    return found


def _curve(path: Path, by: str, counts: dict[str, int]) -> Curve:
    """The sum of operations, each that many times, over tokens or sequences."""
    columns = {"layer": ("layer",), "by": (by,), "time_us": ("time_us",)}
    points: dict[str, list[tuple[float, float]]] = {name: [] for name in counts}
    for row in rows(path, columns):
        if row["layer"] in points:
            points[row["layer"]].append((number(row, "by"), number(row, "time_us") * 1e-6))
    missing = [name for name, found in points.items() if not found]
    if missing:
        raise ValueError(f"{path.name} has no rows of {', '.join(missing)}: give the whole table")
    curves = {name: Curve.of(found) for name, found in points.items()}
    places = sorted(set.intersection(*(set(curve.rows) for curve in curves.values())))
    return Curve.of(
        (place, sum(counts[name] * curve.at(place) for name, curve in curves.items()))
        for place in places
    )
