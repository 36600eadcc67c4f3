"""vidur's tables: operations of a layer by tokens, attention of one chunk or of decodes (ms)."""

from __future__ import annotations

from pathlib import Path

from .compose import Attention, Curve
from .table import number, rows

PER_LAYER = {
    "input_layernorm": 1,
    "attn_pre_proj": 1,
    "attn_rope": 1,
    "attn_post_proj": 1,
    "post_attention_layernorm": 1,
    "mlp_up_proj": 1,
    "mlp_act": 1,
    "mlp_down_proj": 1,
    "add": 2,
}


def dense(path: Path, *, layers: int) -> Curve:
    """Everything but attention and head, of all layers and the embedding, over tokens."""
    counts = {name: layers * times for name, times in PER_LAYER.items()} | {"emb": 1}
    columns = {name: _names(name) for name in counts} | {"tokens": ("num_tokens",)}
    return Curve.of(
        (
            number(row, "tokens"),
            1e-3 * sum(times * number(row, name) for name, times in counts.items()),
        )
        for row in rows(path, columns)
    )


def attention(path: Path, *, query_heads: int, kv_heads: int) -> list[Attention]:
    """Attention of one layer with those heads on one device, reshaping included."""
    columns = {
        "batch": ("batch_size",),
        "chunk": ("prefill_chunk_size",),
        "cached": ("kv_cache_size",),
        "is_prefill": ("is_prefill",),
        "heads": ("n_q_head",),
        "kv_heads": ("n_kv_head",),
        "ranks": ("num_tensor_parallel_workers",),
        "reshape": _names("attn_output_reshape"),
        "prefill": _names("attn_prefill"),
        "decode": _names("attn_decode"),
    }
    found = []
    for row in rows(path, columns):
        ranks = number(row, "ranks")
        if (number(row, "heads"), number(row, "kv_heads")) != (
            query_heads * ranks,
            kv_heads * ranks,
        ):
            continue
        is_prefill = row["is_prefill"].lower() == "true"
        cached = int(number(row, "cached"))
        pair = (int(number(row, "chunk")), cached) if is_prefill else (1, cached)
        millis = number(row, "prefill" if is_prefill else "decode") + number(row, "reshape")
        if pair[0] and (is_prefill or cached):
            found.append(Attention((pair,) * int(number(row, "batch")), millis * 1e-3))
    if not found:
        raise ValueError(
            f"{path.name} has no rows of {query_heads} query and {kv_heads} key-value heads a rank"
        )
    return found


def _names(operation: str) -> tuple[str, ...]:
    return (f"{operation}_ms", f"time_stats.{operation}.median")
