# mypy: disable-error-code="no-untyped-def, untyped-decorator, no-untyped-call"
"""Rotary positions, in place or on the way into the cache.

T tokens, B heads of a program, N query heads, M key-value heads, H head size, W its next power of
two, R rotary dimensions, P half of them.
"""

from __future__ import annotations

import triton
import triton.language as tl

from .cache import copy_heads, scale_of
from .numbers import narrow, stored


@triton.jit
def rope(
    q,
    k,
    v,
    k_cache,
    v_cache,
    k_scale,
    v_scale,
    positions_T,
    slots_T,
    table,
    q_stride,
    k_stride,
    v_stride,
    N: tl.constexpr,
    M: tl.constexpr,
    H: tl.constexpr,
    W: tl.constexpr,
    R: tl.constexpr,
    NEOX: tl.constexpr,
    WRITES: tl.constexpr,  # keys and values go to the cache; otherwise keys are rotated in place
    SCALING: tl.constexpr,
    HEADS: tl.constexpr,
    PAIRS: tl.constexpr,  # the next power of two of R / 2
    WIDEN: tl.constexpr,
):
    """A program rotates some heads of one token: query heads first, then key heads."""
    token = tl.program_id(0).to(tl.int64)
    block = tl.program_id(1)
    query_blocks = tl.cdiv(N, HEADS)
    j_P = tl.arange(0, PAIRS)
    angle = table + tl.load(positions_T + token).to(tl.int64) * R
    cos_P = tl.load(angle + j_P, j_P < R // 2, other=0.0)
    sin_P = tl.load(angle + R // 2 + j_P, j_P < R // 2, other=0.0)
    if block < query_blocks:
        head_B = block * HEADS + tl.arange(0, HEADS)
        turn_in_place(q + token * q_stride, head_B, cos_P, sin_P, N, H, R, NEOX, PAIRS, WIDEN)
    else:
        head_B = (block - query_blocks) * HEADS + tl.arange(0, HEADS)
        row = k + token * k_stride
        if WRITES:
            slot = tl.load(slots_T + token)
            turn_into_cache(
                row, k_cache, k_scale, slot, head_B, cos_P, sin_P, M, H, W, R, NEOX, SCALING,
                PAIRS, WIDEN,
            )  # fmt: skip
            row = v + token * v_stride
            copy_heads(row, v_cache, v_scale, slot, head_B, M, H, W, SCALING, WIDEN)
        else:
            turn_in_place(row, head_B, cos_P, sin_P, M, H, R, NEOX, PAIRS, WIDEN)


@triton.jit
def turn_in_place(
    x, head_B, cos_P, sin_P, HEADS_IN_ALL: tl.constexpr, H: tl.constexpr, R: tl.constexpr,
    NEOX: tl.constexpr, PAIRS: tl.constexpr, WIDEN: tl.constexpr,
):  # fmt: skip
    """Whoever loads a pair stores it: no thread reads what another has written."""
    a_BP, b_BP, first, second, is_in = _turned(
        x, head_B, cos_P, sin_P, HEADS_IN_ALL, H, R, NEOX, PAIRS, WIDEN
    )
    tl.store(x + first, a_BP, is_in)
    tl.store(x + second, b_BP, is_in)


@triton.jit
def turn_into_cache(
    x, cache, scale, slot, head_B, cos_P, sin_P, M: tl.constexpr, H: tl.constexpr,
    W: tl.constexpr, R: tl.constexpr, NEOX: tl.constexpr, SCALING: tl.constexpr,
    PAIRS: tl.constexpr, WIDEN: tl.constexpr,
):  # fmt: skip
    """Rotated pairs and, behind them, the dimensions that aren't rotated."""
    a_BP, b_BP, first, second, is_in = _turned(x, head_B, cos_P, sin_P, M, H, R, NEOX, PAIRS, WIDEN)
    d_W = tl.arange(0, W)
    rest = head_B[:, None] * H + d_W[None, :]
    is_rest = (head_B < M)[:, None] & ((d_W >= R) & (d_W < H))[None, :]
    if R < H:
        rest_BW = tl.load(x + rest, is_rest, other=0.0)
    if SCALING != "":
        a_BP, b_BP = a_BP.to(tl.float32), b_BP.to(tl.float32)
        peak_B = tl.maximum(tl.max(tl.abs(a_BP), 1), tl.max(tl.abs(b_BP), 1))
        if R < H:
            rest_BW = rest_BW.to(tl.float32)
            peak_B = tl.maximum(peak_B, tl.max(tl.abs(rest_BW), 1))
        dtype: tl.constexpr = cache.dtype.element_ty
        scale_B1 = scale_of(scale, peak_B, slot, head_B, dtype, M, SCALING)[:, None]
        a_BP = stored(a_BP / scale_B1, dtype, WIDEN)
        b_BP = stored(b_BP / scale_B1, dtype, WIDEN)
        if R < H:
            rest_BW = stored(rest_BW / scale_B1, dtype, WIDEN)
    at = cache + slot * (M * H)
    tl.store(at + first, a_BP, is_in)
    tl.store(at + second, b_BP, is_in)
    if R < H:
        tl.store(at + rest, rest_BW, is_rest)


@triton.jit
def _turned(
    x, head_B, cos_P, sin_P, HEADS_IN_ALL: tl.constexpr, H: tl.constexpr, R: tl.constexpr,
    NEOX: tl.constexpr, PAIRS: tl.constexpr, WIDEN: tl.constexpr,
):  # fmt: skip
    """Rotated pairs in x's type, where each half lies, and which there are."""
    j_P = tl.arange(0, PAIRS)
    is_in = (head_B < HEADS_IN_ALL)[:, None] & (j_P < R // 2)[None, :]
    if NEOX:
        first = head_B[:, None] * H + j_P[None, :]
        second = first + R // 2
    else:
        first = head_B[:, None] * H + 2 * j_P[None, :]
        second = first + 1
    a_BP = tl.load(x + first, is_in, other=0.0).to(tl.float32)
    b_BP = tl.load(x + second, is_in, other=0.0).to(tl.float32)
    turned_a = narrow(a_BP * cos_P[None, :] - b_BP * sin_P[None, :], x.dtype.element_ty, WIDEN)
    turned_b = narrow(b_BP * cos_P[None, :] + a_BP * sin_P[None, :], x.dtype.element_ty, WIDEN)
    return turned_a, turned_b, first, second, is_in
