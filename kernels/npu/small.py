# mypy: disable-error-code="no-untyped-def, untyped-decorator, no-untyped-call"
"""The small operators for vector cores: persistent programs around the steps of `kernels.gpu`.

A grid of one program a token would be scheduled core by core, and may not exceed 65,535. Numbers of
tokens aren't specialised, so that no step compiles anew.

T tokens, B heads that are taken at once, N query and M key-value heads, H head size, W its next
power of two, R rotary dimensions, P half of them.
"""

from __future__ import annotations

import triton
import triton.language as tl

from ..gpu.cache import copy_heads
from ..gpu.numbers import narrow
from ..gpu.rope import turn_in_place, turn_into_cache


@triton.jit(do_not_specialize=["tokens"])
def kv_write(
    k,
    v,
    k_cache,
    v_cache,
    k_scale,
    v_scale,
    slots_T,
    tokens,
    k_stride,
    v_stride,
    M: tl.constexpr,
    H: tl.constexpr,
    W: tl.constexpr,
    SCALING: tl.constexpr,
    HEADS: tl.constexpr,
    WIDEN: tl.constexpr,
):
    """Keys and values of every token into its slot."""
    program, programs = tl.program_id(0), tl.num_programs(0)
    for turn in range(tl.cdiv(tokens - program, programs)):
        token = (program + turn * programs).to(tl.int64)
        slot = tl.load(slots_T + token)
        k_row, v_row = k + token * k_stride, v + token * v_stride
        for first in range(0, M, HEADS):
            head_B = first + tl.arange(0, HEADS)
            copy_heads(k_row, k_cache, k_scale, slot, head_B, M, H, W, SCALING, WIDEN)
            copy_heads(v_row, v_cache, v_scale, slot, head_B, M, H, W, SCALING, WIDEN)


@triton.jit(do_not_specialize=["tokens"])
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
    tokens,
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
    QUERY_HEADS: tl.constexpr,
    KV_HEADS: tl.constexpr,
    PAIRS: tl.constexpr,  # the next power of two of R / 2
    WIDEN: tl.constexpr,
):
    """Query heads rotated in place, then key heads, in place or on the way into the cache."""
    program, programs = tl.program_id(0), tl.num_programs(0)
    j_P = tl.arange(0, PAIRS)
    for turn in range(tl.cdiv(tokens - program, programs)):
        token = (program + turn * programs).to(tl.int64)
        angle = table + tl.load(positions_T + token).to(tl.int64) * R
        cos_P = tl.load(angle + j_P, j_P < R // 2, other=0.0)
        sin_P = tl.load(angle + R // 2 + j_P, j_P < R // 2, other=0.0)
        q_row, k_row = q + token * q_stride, k + token * k_stride
        for first in range(0, N, QUERY_HEADS):
            head_B = first + tl.arange(0, QUERY_HEADS)
            turn_in_place(q_row, head_B, cos_P, sin_P, N, H, R, NEOX, PAIRS, WIDEN)
        for first in range(0, M, KV_HEADS):
            head_B = first + tl.arange(0, KV_HEADS)
            if WRITES:
                slot = tl.load(slots_T + token)
                turn_into_cache(
                    k_row, k_cache, k_scale, slot, head_B, cos_P, sin_P, M, H, W, R, NEOX, SCALING,
                    PAIRS, WIDEN,
                )  # fmt: skip
                v_row = v + token * v_stride
                copy_heads(v_row, v_cache, v_scale, slot, head_B, M, H, W, SCALING, WIDEN)
            else:
                turn_in_place(k_row, head_B, cos_P, sin_P, M, H, R, NEOX, PAIRS, WIDEN)


@triton.jit(do_not_specialize=["rows"])
def rms_norm(
    x,
    weight,
    residual,
    out,
    eps,
    rows,
    x_stride,
    x_head_stride,
    residual_stride,
    out_stride,
    out_head_stride,
    HEADS: tl.constexpr,
    D: tl.constexpr,
    W: tl.constexpr,
    HAS_RESIDUAL: tl.constexpr,
    WIDEN: tl.constexpr,
):
    """Every row, one head of one token, normalised; with a residual, after it was added."""
    program, programs = tl.program_id(0), tl.num_programs(0)
    d_W = tl.arange(0, W)
    is_in = d_W < D
    weight_W = tl.load(weight + d_W, is_in, other=0.0).to(tl.float32)
    for turn in range(tl.cdiv(rows - program, programs)):
        row = (program + turn * programs).to(tl.int64)
        token, head = row // HEADS, row % HEADS
        x_W = tl.load(x + token * x_stride + head * x_head_stride + d_W, is_in, other=0.0)
        wide_W = x_W.to(tl.float32)
        if HAS_RESIDUAL:
            at = residual + token * residual_stride + d_W
            wide_W += tl.load(at, is_in, other=0.0).to(tl.float32)
            sum_W = narrow(wide_W, x.dtype.element_ty, WIDEN)
            tl.store(at, sum_W, is_in)
            wide_W = sum_W.to(tl.float32)
        shrink = tl.rsqrt(tl.sum(wide_W * wide_W, 0) / D + eps)
        normal_W = narrow(wide_W * shrink, x.dtype.element_ty, WIDEN).to(tl.float32)
        y_W = narrow(normal_W * weight_W, out.dtype.element_ty, WIDEN)
        tl.store(out + token * out_stride + head * out_head_stride + d_W, y_W, is_in)


@triton.jit(do_not_specialize=["rows"])
def silu_mul(
    gate_up,
    out,
    rows,
    gate_up_stride,
    out_stride,
    F: tl.constexpr,
    BLOCK: tl.constexpr,
    WIDEN: tl.constexpr,
):
    """silu(gate) * up, a block of one row at a time."""
    program, programs = tl.program_id(0), tl.num_programs(0)
    blocks: tl.constexpr = (F + BLOCK - 1) // BLOCK
    for turn in range(tl.cdiv(rows * blocks - program, programs)):
        piece = program + turn * programs
        row = (piece // blocks).to(tl.int64)
        f = piece % blocks * BLOCK + tl.arange(0, BLOCK)
        at = gate_up + row * gate_up_stride + f
        gate = tl.load(at, f < F, other=0.0).to(tl.float32)
        up = tl.load(at + F, f < F, other=0.0).to(tl.float32)
        opened = narrow(gate * tl.sigmoid(gate), out.dtype.element_ty, WIDEN).to(tl.float32)
        y = narrow(opened * up, out.dtype.element_ty, WIDEN)
        tl.store(out + row * out_stride + f, y, f < F)
