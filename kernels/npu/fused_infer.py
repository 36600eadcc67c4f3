"""Calls of `torch_npu.npu_fused_infer_attention_score_v2`, one for a whole mixed batch.

Rules of the layout TND with pages, from three texts: torch_npu 2.13.0's own, its plug-in's newer
one, and CANN's of the operator below. What all of them allow is used; what only some allow
(`DISPUTED`) is used where it came out right at start-up; what none allows is refused. Caches of 8
bits are refused by all three: for one query a sequence in other layouts they're possible, in TND
they aren't.

B sequences with new tokens, C pages in a table row, T tokens, N query and M key-value heads, H
head size.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch

from ..batch import INT32_MAX, AttentionSpec, KVCache
from ..library import LibraryWork

LAYOUT = "TND"
DTYPES = (torch.bfloat16, torch.float16)
HEAD_SIZES = (64, 80, 96, 128, 192, 256)
DISPUTED: dict[str, dict[str, Any]] = {
    "float16": {"dtype": torch.float16},
    **{f"heads of {size}": {"head_size": size} for size in HEAD_SIZES if size != 128},
}
PAGE_STEP, MOST_PAGE = 128, 512
MOST_GROUP = 64
MOST_QUERY_HEADS = 256
MOST_ROW = 65535  # numbers in a row of the cache, all key-value heads
SINK_HEADS = (64, 128)
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
        (
            spec.dtype in DTYPES,
            f"computes in {' and '.join(map(str, DTYPES))}, not in {spec.dtype}",
        ),
        (
            not spec.is_quantised,
            f"has no caches of 8 bits in layout {LAYOUT}, {spec.stored_dtype} was asked for",
        ),
        (not spec.softcap, f"has no soft-cap, {spec.softcap} was asked for"),
        (
            spec.head_size in HEAD_SIZES,
            f"takes heads of {', '.join(map(str, HEAD_SIZES))}, not {spec.head_size}",
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
            not spec.sinks or spec.dtype == torch.bfloat16,
            f"has sinks in torch.bfloat16, not in {spec.dtype}",
        ),
        (
            not spec.sinks or spec.head_size in SINK_HEADS,
            f"has sinks for heads of {' and '.join(map(str, SINK_HEADS))}, not {spec.head_size}",
        ),
    )
    return next((why for holds, why in rules if not holds), None)


def disputed(spec: AttentionSpec) -> list[str]:
    """What a spec asks for that only some of the texts allow, by the names of `DISPUTED`."""
    asked = {"float16": spec.dtype == torch.float16}
    asked |= {f"heads of {size}": spec.head_size == size for size in HEAD_SIZES}
    return [name for name in DISPUTED if asked[name]]


def check_cache(spec: AttentionSpec, pages: int) -> None:
    """Refuse a cache that the operator can't address.

    Raises:
        ValueError: its keys are too many numbers.
    """
    most = INT32_MAX // (spec.page_tokens * spec.kv_heads * spec.head_size)
    if pages > most:
        raise ValueError(
            f"pages is {pages}: the fused operator addresses caches of up to {most} pages of "
            f"{spec.page_tokens} tokens with {spec.kv_heads} heads of {spec.head_size}"
        )


def calls(work: NpuWork, pages: int) -> Iterator[slice]:
    """The sequences of each call: all of them in one, or fewer where a rule would be broken.

    A call's sequences may not need more pages together than the cache has, even where they share
    pages; they may be 4,096, with 2^20 tokens.
    """
    sequences, first, needed, tokens = len(work.query_ends_B), 0, 0, 0
    needs_B = [-(-length // work.spec.page_tokens) for length in work.context_lens_B]
    queries_B = [end - start for start, end in pairwise((0, *work.query_ends_B))]
    for b in range(sequences):
        needed, tokens = needed + needs_B[b], tokens + queries_B[b]
        if b > first and (needed > pages or tokens > MOST_TOKENS or b - first == MOST_SEQUENCES):
            yield slice(first, b)
            first, needed, tokens = b, needs_B[b], queries_B[b]
    yield slice(first, sequences)


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
    parts = [
        _attend(library, q_TNH, cache, work, some_B, mask, sinks_N)
        for some_B in calls(work, cache.pages)
    ]
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def _attend(
    library: Any,
    q_TNH: torch.Tensor,
    cache: KVCache,
    work: NpuWork,
    some_B: slice,
    mask: torch.Tensor,
    sinks_N: torch.Tensor | None,
) -> torch.Tensor:
    """Attention of some sequences, which lie side by side."""
    spec = work.spec
    first = work.query_ends_B[some_B.start - 1] if some_B.start else 0
    ends_B = [end - first for end in work.query_ends_B[some_B]]
    band = {"pre_tokens": spec.window - 1, "next_tokens": 0} if spec.window else {}
    out_TNH, _ = library.npu_fused_infer_attention_score_v2(
        q_TNH[first : first + ends_B[-1]].contiguous(),
        cache.k.flatten(2),
        cache.v.flatten(2),
        atten_mask=mask,
        actual_seq_qlen=ends_B,
        actual_seq_kvlen=work.context_lens_B[some_B],
        block_table=work.table_BC[some_B],
        learnable_sink=None if sinks_N is None else sinks_N.to(torch.bfloat16),
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
