"""AIConfigurator's kernel tables: matrix products, attention of prompts and of decodes (ms)."""

from __future__ import annotations

from pathlib import Path

from .compose import Attention
from .table import number, rows

LATENCY = ("latency_ms", "latency")


def gemms(path: Path) -> list[tuple[int, int, int, float]]:
    """(m, n, k, seconds) of every product; of a publisher's table, the bf16 ones."""
    columns = {"m": ("m",), "n": ("n",), "k": ("k",), "latency": LATENCY}
    dtype = {"dtype": ("gemm_dtype", "k")}
    return [
        (*(int(number(row, name)) for name in "mnk"), number(row, "latency") * 1e-3)  # type: ignore[misc]
        for row in rows(path, columns | dtype)
        if row["dtype"] in (row["k"], "bfloat16", "float16")
    ]


def attention(path: Path, *, query_heads: int, kv_heads: int) -> list[Attention]:
    """Attention of one layer with those heads: whole prompts, and decodes of equal context.

    A row with `step` above 0 is a decode behind that many tokens; another one a batch of whole
    prompts of `isl` tokens.

    Raises:
        ValueError: the table has no such heads.
    """
    columns = {
        "heads": ("num_heads",),
        "kv_heads": ("num_key_value_heads",),
        "batch": ("batch_size",),
        "isl": ("isl",),
        "step": ("step",),
        "latency": LATENCY,
    }
    found = []
    for row in rows(path, columns):
        heads = (int(number(row, "heads")), int(number(row, "kv_heads")))
        if heads != (query_heads, kv_heads):
            continue
        step, length = int(number(row, "step")), int(number(row, "isl"))
        pair = (1, step) if step else (length, 0)
        pairs = (pair,) * int(number(row, "batch"))
        found.append(Attention(pairs, number(row, "latency") * 1e-3))
    if not found:
        raise ValueError(
            f"{path.name} has no rows of {query_heads} query and {kv_heads} key-value heads"
        )
    return found
