"""One call of `torch_npu.npu_fused_infer_attention_score_v2` for a whole mixed batch.

The rules are those of torch_npu 2.13.0's own text about that operator, for the layout TND with
pages. B sequences with new tokens, C pages in a table row, T tokens, N query and M key-value heads,
H head size.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from ..batch import AttentionSpec, KVCache
from ..library import LibraryWork

LAYOUT = "TND"
DTYPE = torch.bfloat16
HEAD_SIZES = (128, 192)
PAGE_STEP, MOST_PAGE = 128, 512
MOST_GROUP = 64
MOST_QUERY_HEADS = 256
MOST_ROW = 65535  # numbers in a row of the cache, all key-value heads
MOST_SINK_HEAD = 128
MOST_SEQUENCES = 4096
MOST_TOKENS = 1 << 20
MASK_SIZE = 2048  # whatever the lengths: the operator shifts it along the diagonal
CAUSAL, BAND = 3, 4  # sparse modes, both aligned to the last query and the last key


@dataclass(frozen=True, slots=True, eq=False)
class NpuWork(LibraryWork):
    """A step's lists as the operator wants them, and its copies on the device."""

    query_ends_B: list[int]
    context_lens_B: list[int]
    table_BC: torch.Tensor
    positions_T: torch.Tensor
    slots_T: torch.Tensor


def broken_rule(spec: AttentionSpec) -> str | None:
    """Which of the operator's rules a spec breaks, or None."""
    rules = (
        (spec.dtype == DTYPE, f"computes in {DTYPE}, not in {spec.dtype}"),
        (not spec.is_quantised, f"caches {DTYPE}, not {spec.stored_dtype}"),
        (not spec.softcap, f"has no soft-cap, {spec.softcap} was asked for"),
        (
            spec.head_size in HEAD_SIZES,
            f"needs a head size of {' or '.join(map(str, HEAD_SIZES))}, not {spec.head_size}",
        ),
        (
            spec.page_tokens % PAGE_STEP == 0 and spec.page_tokens <= MOST_PAGE,
            f"needs pages of a multiple of {PAGE_STEP} tokens up to {MOST_PAGE}, "
            f"not {spec.page_tokens}",
        ),
        (spec.group <= MOST_GROUP, f"takes groups of up to {MOST_GROUP} heads, not {spec.group}"),
        (
            spec.query_heads <= MOST_QUERY_HEADS,
            f"takes up to {MOST_QUERY_HEADS} query heads, not {spec.query_heads}",
        ),
        (
            spec.kv_heads * spec.head_size <= MOST_ROW,
            f"takes keys of up to {MOST_ROW} numbers a token, not {spec.kv_heads * spec.head_size}",
        ),
        (
            not spec.sinks or spec.head_size <= MOST_SINK_HEAD,
            f"has sinks for heads of up to {MOST_SINK_HEAD}, not {spec.head_size}",
        ),
    )
    return next((why for holds, why in rules if not holds), None)


def check_size(sequences: int, tokens: int) -> None:
    """Refuse a step that is too large for one call.

    Raises:
        ValueError: too many sequences or tokens.
    """
    if sequences > MOST_SEQUENCES or tokens > MOST_TOKENS:
        raise ValueError(
            f"a step of {sequences} sequences and {tokens} tokens is too large for one call of the "
            f"fused operator: {MOST_SEQUENCES} and {MOST_TOKENS} are its limits"
        )


def causal_mask(device: torch.device) -> torch.Tensor:
    """What both sparse modes want: true above the diagonal, where nothing is seen."""
    square = torch.ones(MASK_SIZE, MASK_SIZE, dtype=torch.bool, device=device)
    return square.triu(diagonal=1)


def attend(
    library: Any,
    q_TNH: torch.Tensor,
    cache: KVCache,
    work: NpuWork,
    mask: torch.Tensor,
    sinks_N: torch.Tensor | None,
) -> torch.Tensor:
    """Attention of all sequences, [T, N, H]."""
    spec = work.spec
    band = {"pre_tokens": spec.window - 1, "next_tokens": 0} if spec.window else {}
    out_TNH, _ = library.npu_fused_infer_attention_score_v2(
        q_TNH.contiguous(),
        cache.k.flatten(2),
        cache.v.flatten(2),
        atten_mask=mask,
        actual_seq_qlen=work.query_ends_B,
        actual_seq_kvlen=work.context_lens_B,
        block_table=work.table_BC,
        learnable_sink=None if sinks_N is None else sinks_N.to(DTYPE),
        num_query_heads=spec.query_heads,
        num_key_value_heads=spec.kv_heads,
        softmax_scale=spec.score_scale,
        input_layout=LAYOUT,
        sparse_mode=BAND if spec.window else CAUSAL,
        block_size=spec.page_tokens,
        **band,
    )
    assert isinstance(out_TNH, torch.Tensor)
    return out_TNH
