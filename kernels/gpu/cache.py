# mypy: disable-error-code="no-untyped-def, untyped-decorator, no-untyped-call"
"""Writing keys and values into a paged cache [pages, PAGE, M, H], quantised or as they are.

T tokens, B heads of a program, M key-value heads, H head size, W its next power of two.
"""

from __future__ import annotations

import triton
import triton.language as tl

from .numbers import limit, stored


@triton.jit
def kv_write(
    k,
    v,
    k_cache,
    v_cache,
    k_scale,
    v_scale,
    slots_T,
    k_stride,
    v_stride,
    M: tl.constexpr,
    H: tl.constexpr,
    W: tl.constexpr,
    SCALING: tl.constexpr,
    HEADS: tl.constexpr,
    WIDEN: tl.constexpr,
):
    """A program puts some heads of one token into its slot."""
    token = tl.program_id(0).to(tl.int64)
    slot = tl.load(slots_T + token)
    head_B = tl.program_id(1) * HEADS + tl.arange(0, HEADS)
    copy_heads(k + token * k_stride, k_cache, k_scale, slot, head_B, M, H, W, SCALING, WIDEN)
    copy_heads(v + token * v_stride, v_cache, v_scale, slot, head_B, M, H, W, SCALING, WIDEN)


@triton.jit
def copy_heads(
    x, cache, scale, slot, head_B,
    M: tl.constexpr, H: tl.constexpr, W: tl.constexpr, SCALING: tl.constexpr,
    WIDEN: tl.constexpr,
):  # fmt: skip
    """Some heads of one token, from a row of the projection to its slot."""
    d_W = tl.arange(0, W)
    is_head_B = head_B < M
    is_in = is_head_B[:, None] & (d_W < H)[None, :]
    x_BW = tl.load(x + head_B[:, None] * H + d_W[None, :], is_in, other=0.0)
    at = (slot * M + head_B)[:, None] * H + d_W[None, :]
    if SCALING == "":
        tl.store(cache + at, x_BW, is_in)
    else:
        x_BW = x_BW.to(tl.float32)
        peak_B = tl.max(tl.abs(x_BW), 1)
        scale_B = scale_of(scale, peak_B, slot, head_B, cache.dtype.element_ty, M, SCALING)
        x_BW = stored(x_BW / scale_B[:, None], cache.dtype.element_ty, WIDEN)
        tl.store(cache + at, x_BW, is_in)


@triton.jit
def scale_of(
    scale, peak_B, slot, head_B, dtype: tl.constexpr, M: tl.constexpr, SCALING: tl.constexpr
):
    """What stored numbers will be multiplied by: the whole cache's, or found here and kept."""
    if SCALING == "tensor":
        scale_B = tl.load(scale) + tl.zeros_like(peak_B)
    else:
        scale_B = tl.where(peak_B > 0, peak_B / limit(dtype), 1.0)
        tl.store(scale + slot * M + head_B, scale_B, head_B < M)
    return scale_B
