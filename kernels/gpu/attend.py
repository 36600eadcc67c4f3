# mypy: disable-error-code="no-untyped-def, untyped-decorator, no-untyped-call"
"""Causal attention of a ragged batch over paged keys, one launch for prompt chunks and decodes.

Persistent programs share out a step's tiles (`kernels.plan`) and walk each one's keys with an
online softmax in base 2. Tiles that were split along their keys leave unnormalised sums behind,
which `reduce_splits` puts together.

Dimensions: R rows of a tile (tokens times the G heads of a group), K keys of a block, N query
heads, M key-value heads, H head size, W its next power of two. A cache is [pages, PAGE, M, H].
"""

from __future__ import annotations

import math

import triton
import triton.language as tl

from .numbers import narrow, operand

LOG2_E: tl.constexpr = tl.constexpr(math.log2(math.e))


@triton.jit
def ragged_attention(
    q,
    k,
    v,
    out,
    partial,
    stats,
    k_scale,
    v_scale,
    sinks_N,
    counts,
    items,
    table,
    score_scale,
    softcap,
    q_stride,
    out_stride,
    table_stride,
    G: tl.constexpr,
    M: tl.constexpr,
    H: tl.constexpr,
    W: tl.constexpr,
    PAGE: tl.constexpr,
    WINDOW: tl.constexpr,
    HAS_CAP: tl.constexpr,
    HAS_SINKS: tl.constexpr,
    SCALING: tl.constexpr,  # of a quantised cache: "token" | "tensor"; "" without scales
    ADDRESSING: tl.constexpr,  # "page": blocks within a page | "gather": across | "descriptor"
    LARGE_ROWS: tl.constexpr,  # 0: this specialisation has no large tiles
    LARGE_KEYS: tl.constexpr,
    SMALL_ROWS: tl.constexpr,  # 0: none of the small ones
    SMALL_KEYS: tl.constexpr,
    PARTIAL_ROWS: tl.constexpr,
    WIDEN: tl.constexpr,
):
    """`counts` holds how many large and small items there are, large ones first in `items`."""
    program = tl.program_id(0)
    programs = tl.num_programs(0)
    large = tl.load(counts)
    small = tl.load(counts + 1)
    last = programs - 1 - program  # whoever gets one large tile more gets one small tile less
    if LARGE_ROWS > 0 and SMALL_ROWS > 0:
        # Odd programs take decodes first: beside an even one on the same core, one of the two
        # computes while the other waits for memory.
        for phase in range(2):
            if phase == program % 2:
                _tiles(
                    items, large, program, q, k, v, out, partial, stats, k_scale, v_scale, sinks_N,
                    table, score_scale, softcap, q_stride, out_stride, table_stride, G, M, H, W,
                    PAGE, WINDOW, HAS_CAP, HAS_SINKS, SCALING, ADDRESSING, LARGE_ROWS, LARGE_KEYS,
                    PARTIAL_ROWS, WIDEN,
                )  # fmt: skip
            else:
                _tiles(
                    items + large * 8, small, last, q, k, v, out, partial, stats, k_scale, v_scale,
                    sinks_N, table, score_scale, softcap, q_stride, out_stride, table_stride, G, M,
                    H, W, PAGE, WINDOW, HAS_CAP, HAS_SINKS, SCALING, ADDRESSING, SMALL_ROWS,
                    SMALL_KEYS, PARTIAL_ROWS, WIDEN,
                )  # fmt: skip
    elif LARGE_ROWS > 0:
        _tiles(
            items, large, program, q, k, v, out, partial, stats, k_scale, v_scale, sinks_N, table,
            score_scale, softcap, q_stride, out_stride, table_stride, G, M, H, W, PAGE, WINDOW,
            HAS_CAP, HAS_SINKS, SCALING, ADDRESSING, LARGE_ROWS, LARGE_KEYS, PARTIAL_ROWS, WIDEN,
        )  # fmt: skip
    else:
        _tiles(
            items, small, program, q, k, v, out, partial, stats, k_scale, v_scale, sinks_N, table,
            score_scale, softcap, q_stride, out_stride, table_stride, G, M, H, W, PAGE, WINDOW,
            HAS_CAP, HAS_SINKS, SCALING, ADDRESSING, SMALL_ROWS, SMALL_KEYS, PARTIAL_ROWS, WIDEN,
        )  # fmt: skip


@triton.jit
def _tiles(
    items, count, program, q, k, v, out, partial, stats, k_scale, v_scale, sinks_N, table,
    score_scale, softcap, q_stride, out_stride, table_stride,
    G: tl.constexpr, M: tl.constexpr, H: tl.constexpr, W: tl.constexpr, PAGE: tl.constexpr,
    WINDOW: tl.constexpr, HAS_CAP: tl.constexpr, HAS_SINKS: tl.constexpr,
    SCALING: tl.constexpr, ADDRESSING: tl.constexpr, ROWS: tl.constexpr, KEYS: tl.constexpr,
    PARTIAL_ROWS: tl.constexpr, WIDEN: tl.constexpr,
):  # fmt: skip
    """One program's share of a class: costliest first, to and fro, so that sums come out even."""
    programs = tl.num_programs(0)
    for turn in range(tl.cdiv(count * M, programs)):
        w = turn * programs + tl.where(turn % 2 == 0, program, programs - 1 - program)
        if w < count * M:
            _tile(
                items + w // M * 8, w % M, q, k, v, out, partial, stats, k_scale, v_scale, sinks_N,
                table, score_scale, softcap, q_stride, out_stride, table_stride, G, M, H, W, PAGE,
                WINDOW, HAS_CAP, HAS_SINKS, SCALING, ADDRESSING, ROWS, KEYS, PARTIAL_ROWS, WIDEN,
            )  # fmt: skip


@triton.jit
def _tile(
    item, head, q, k, v, out, partial, stats, k_scale, v_scale, sinks_N, table,
    score_scale, softcap, q_stride, out_stride, table_stride,
    G: tl.constexpr, M: tl.constexpr, H: tl.constexpr, W: tl.constexpr, PAGE: tl.constexpr,
    WINDOW: tl.constexpr, HAS_CAP: tl.constexpr, HAS_SINKS: tl.constexpr,
    SCALING: tl.constexpr, ADDRESSING: tl.constexpr, ROWS: tl.constexpr, KEYS: tl.constexpr,
    PARTIAL_ROWS: tl.constexpr, WIDEN: tl.constexpr,
):  # fmt: skip
    """One item for one key-value head, from its queries to its result or its partial sums."""
    sequence = tl.load(item)
    query_row = tl.load(item + 1)
    queries = tl.load(item + 2)
    position = tl.load(item + 3)
    kv_begin = tl.load(item + 4)
    kv_end = tl.load(item + 5)
    slot = tl.load(item + 6)
    flags = tl.load(item + 7)

    row_R = tl.arange(0, ROWS)
    token_R = row_R // G
    n_R = head * G + row_R % G
    d_W = tl.arange(0, W)
    is_live_R = token_R < queries
    is_live = is_live_R[:, None] & (d_W < H)[None, :]
    at_R = (query_row + token_R).to(tl.int64)
    q_RW = tl.load(q + (at_R * q_stride + n_R * H)[:, None] + d_W[None, :], is_live, other=0.0)

    peak_R = tl.full([ROWS], float("-inf"), tl.float32)
    mass_R = tl.zeros([ROWS], tl.float32)
    if HAS_SINKS:  # once, however many parts a tile has
        is_first = (flags & 2) != 0
        sink_R = tl.load(sinks_N + n_R, is_live_R, other=0.0) * LOG2_E
        peak_R = tl.where(is_first, sink_R, peak_R)
        mass_R = tl.where(is_first, 1.0, mass_R)
    sum_RW = tl.zeros([ROWS, W], tl.float32)
    scale = score_scale
    if SCALING == "tensor":
        scale = scale * tl.load(k_scale)

    # Keys that every row sees need no mask: those behind the last row's window and up to the first
    # row's own position. Blocks before and after them are masked.
    seen_from = kv_begin
    if WINDOW > 0:
        hidden = tl.maximum(position + queries - WINDOW - kv_begin, 0)
        seen_from = tl.minimum(kv_begin + tl.cdiv(hidden, KEYS) * KEYS, kv_end)
    seen = tl.maximum(tl.minimum(kv_end, position + 1) - seen_from, 0)
    seen_to = seen_from + seen // KEYS * KEYS
    if WINDOW > 0:
        sum_RW, peak_R, mass_R = _walk(
            sum_RW, peak_R, mass_R, q_RW, kv_begin, seen_from, position + token_R, kv_end,
            head, k, v, k_scale, v_scale, table + sequence.to(tl.int64) * table_stride,
            scale, softcap, M, H, W, PAGE, WINDOW, HAS_CAP, SCALING, ADDRESSING, ROWS, KEYS,
            WIDEN, True,
        )  # fmt: skip
    sum_RW, peak_R, mass_R = _walk(
        sum_RW, peak_R, mass_R, q_RW, seen_from, seen_to, position + token_R, kv_end,
        head, k, v, k_scale, v_scale, table + sequence.to(tl.int64) * table_stride,
        scale, softcap, M, H, W, PAGE, WINDOW, HAS_CAP, SCALING, ADDRESSING, ROWS, KEYS,
        WIDEN, False,
    )  # fmt: skip
    sum_RW, peak_R, mass_R = _walk(
        sum_RW, peak_R, mass_R, q_RW, seen_to, kv_end, position + token_R, kv_end,
        head, k, v, k_scale, v_scale, table + sequence.to(tl.int64) * table_stride,
        scale, softcap, M, H, W, PAGE, WINDOW, HAS_CAP, SCALING, ADDRESSING, ROWS, KEYS,
        WIDEN, True,
    )  # fmt: skip

    if SCALING == "tensor":
        sum_RW *= tl.load(v_scale)
    if slot < 0:
        mass_R = tl.where(is_live_R, mass_R, 1.0)  # other rows may have seen nothing
        o_RW = narrow(sum_RW / mass_R[:, None], out.dtype.element_ty, WIDEN)
        tl.store(out + (at_R * out_stride + n_R * H)[:, None] + d_W[None, :], o_RW, is_live)
    else:
        left_R = (slot.to(tl.int64) * M + head) * PARTIAL_ROWS + row_R
        tl.store(partial + left_R[:, None] * H + d_W[None, :], sum_RW, is_live)
        tl.store(stats + left_R * 2, peak_R, is_live_R)
        tl.store(stats + left_R * 2 + 1, mass_R, is_live_R)


@triton.jit
def _walk(
    sum_RW, peak_R, mass_R, q_RW, begin, end, position_R, kv_end,
    head, k, v, k_scale, v_scale, pages, scale, softcap,
    M: tl.constexpr, H: tl.constexpr, W: tl.constexpr, PAGE: tl.constexpr,
    WINDOW: tl.constexpr, HAS_CAP: tl.constexpr, SCALING: tl.constexpr,
    ADDRESSING: tl.constexpr, ROWS: tl.constexpr, KEYS: tl.constexpr,
    WIDEN: tl.constexpr, MASKED: tl.constexpr,
):  # fmt: skip
    """The online softmax over keys from begin to end, in blocks."""
    for start in range(begin, end, KEYS):
        key_K = start + tl.arange(0, KEYS)
        is_in_K = key_K < kv_end
        first, at_K = _slots(pages, start, key_K, is_in_K, PAGE, ADDRESSING, MASKED)
        k_KW = _rows(k, first, at_K, is_in_K, head, M, H, W, ADDRESSING, MASKED)
        k_KW = operand(k_KW, q_RW.dtype, WIDEN)
        q_operand = operand(q_RW, q_RW.dtype, WIDEN)
        score_RK = tl.dot(q_operand, tl.trans(k_KW), input_precision="ieee") * scale
        if SCALING == "token":
            score_RK *= _scales(k_scale, at_K, is_in_K, head, M, MASKED)[None, :]
        if HAS_CAP:  # cap * tanh(x / cap), all of it in base 2
            score_RK = softcap - 2 * softcap / (tl.exp2(score_RK * (2 * LOG2_E / softcap)) + 1)
        if MASKED:
            is_seen = (key_K[None, :] <= position_R[:, None]) & is_in_K[None, :]
            if WINDOW > 0:
                is_seen &= key_K[None, :] > position_R[:, None] - WINDOW
            score_RK = tl.where(is_seen, score_RK, float("-inf"))
        new_peak_R = tl.maximum(peak_R, tl.max(score_RK, 1))
        base_R = new_peak_R
        if MASKED:  # a row that has seen nothing yet: -inf - -inf is NaN
            base_R = tl.where(new_peak_R == float("-inf"), 0.0, new_peak_R)
        weight_RK = tl.exp2(score_RK - base_R[:, None])
        shrink_R = tl.exp2(peak_R - base_R)
        mass_R = mass_R * shrink_R + tl.sum(weight_RK, 1)
        peak_R = new_peak_R
        if SCALING == "token":
            weight_RK *= _scales(v_scale, at_K, is_in_K, head, M, MASKED)[None, :]
        v_KW = _rows(v, first, at_K, is_in_K, head, M, H, W, ADDRESSING, MASKED)
        v_KW = operand(v_KW, q_RW.dtype, WIDEN)
        weight_RK = operand(weight_RK, q_RW.dtype, WIDEN)
        sum_RW = tl.dot(weight_RK, v_KW, acc=sum_RW * shrink_R[:, None], input_precision="ieee")
    return sum_RW, peak_R, mass_R


@triton.jit
def _slots(
    pages, start, key_K, is_in_K, PAGE: tl.constexpr, ADDRESSING: tl.constexpr, MASKED: tl.constexpr
):
    """The cache slots of a block's first key, where it's all in one page, and of every key."""
    if ADDRESSING == "gather":
        first = start
        if MASKED:
            page_K = tl.load(pages + key_K // PAGE, is_in_K, other=0)
        else:
            page_K = tl.load(pages + key_K // PAGE)
        at_K = page_K.to(tl.int64) * PAGE + key_K % PAGE
    else:
        first = tl.load(pages + start // PAGE).to(tl.int64) * PAGE + start % PAGE
        at_K = first + (key_K - start)
    return first, at_K


@triton.jit
def _rows(
    cache, first, at_K, is_in_K, head, M: tl.constexpr, H: tl.constexpr, W: tl.constexpr,
    ADDRESSING: tl.constexpr, MASKED: tl.constexpr,
):  # fmt: skip
    """A block of keys or values; 0 where there is none, since unwritten slots may hold NaN."""
    d_W = tl.arange(0, W)
    at = ((at_K * M + head) * H)[:, None] + d_W[None, :]
    if ADDRESSING == "descriptor":
        x_KW = cache.load([first.to(tl.int32), head * H])
        if MASKED:
            x_KW = tl.where(is_in_K[:, None], x_KW, tl.zeros_like(x_KW))
    elif MASKED:
        x_KW = tl.load(cache + at, is_in_K[:, None] & (d_W < H)[None, :], other=0.0)
    elif W != H:
        x_KW = tl.load(cache + at, (d_W < H)[None, :], other=0.0)
    else:
        x_KW = tl.load(cache + at)
    return x_KW


@triton.jit
def _scales(scale, at_K, is_in_K, head, M: tl.constexpr, MASKED: tl.constexpr):
    """What a block's stored numbers are multiplied by, of [pages, PAGE, M]."""
    if MASKED:
        scale_K = tl.load(scale + at_K * M + head, is_in_K, other=0.0)
    else:
        scale_K = tl.load(scale + at_K * M + head)
    return scale_K


@triton.jit
def reduce_splits(
    out,
    partial,
    stats,
    counts,
    reductions,
    out_stride,
    G: tl.constexpr,
    M: tl.constexpr,
    H: tl.constexpr,
    W: tl.constexpr,
    PARTIAL_ROWS: tl.constexpr,
    SLOTS: tl.constexpr,
    WIDEN: tl.constexpr,
):
    """The result of every row whose tile was split; `reductions` has a line per token.

    A line is: row of the result; token within its tile; first slot; number of slots.
    """
    d_W = tl.arange(0, W)
    lines = tl.load(counts + 2) * (G * M)
    for i in range(tl.program_id(0), lines, tl.num_programs(0)):
        line = reductions + i // (G * M) * 4
        n = i % (G * M)
        row = tl.load(line + 1) * G + n % G
        first = tl.load(line + 2)
        slots = tl.load(line + 3)
        peak = tl.full([1], float("-inf"), tl.float32)
        mass = tl.zeros([1], tl.float32)
        sum_W = tl.zeros([W], tl.float32)
        for begin in range(0, slots, SLOTS):
            slot_S = begin + tl.arange(0, SLOTS)
            is_in_S = slot_S < slots
            left_S = ((first + slot_S).to(tl.int64) * M + n // G) * PARTIAL_ROWS + row
            peak_S = tl.load(stats + left_S * 2, is_in_S, other=float("-inf"))
            mass_S = tl.load(stats + left_S * 2 + 1, is_in_S, other=0.0)
            new_peak = tl.maximum(peak, tl.max(peak_S, 0))
            base = tl.where(new_peak == float("-inf"), 0.0, new_peak)
            shrink, shrink_S = tl.exp2(peak - base), tl.exp2(peak_S - base)
            mass = mass * shrink + tl.sum(mass_S * shrink_S, 0)
            is_in = is_in_S[:, None] & (d_W < H)[None, :]
            sum_SW = tl.load(partial + left_S[:, None] * H + d_W[None, :], is_in, other=0.0)
            sum_W = sum_W * shrink + tl.sum(sum_SW * shrink_S[:, None], 0)
            peak = new_peak
        o_W = narrow(sum_W / mass, out.dtype.element_ty, WIDEN)
        tl.store(out + tl.load(line).to(tl.int64) * out_stride + n * H + d_W, o_W, d_W < H)
