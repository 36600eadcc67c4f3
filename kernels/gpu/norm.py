# mypy: disable-error-code="no-untyped-def, untyped-decorator, no-untyped-call"
"""Root-mean-square norm of rows, with the residual's sum on the way."""

from __future__ import annotations

import triton
import triton.language as tl

from .numbers import narrow


@triton.jit
def rms_norm(
    x,
    weight,
    residual,
    out,
    eps,
    x_stride,
    x_head_stride,
    residual_stride,
    out_stride,
    out_head_stride,
    D: tl.constexpr,
    W: tl.constexpr,
    HAS_RESIDUAL: tl.constexpr,
    WIDEN: tl.constexpr,
):
    """A program has one head of one token, or its whole row; all of it stays in registers."""
    token = tl.program_id(0).to(tl.int64)
    head = tl.program_id(1)
    d_W = tl.arange(0, W)
    is_in = d_W < D
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
    weight_W = tl.load(weight + d_W, is_in, other=0.0).to(tl.float32)
    y_W = narrow(normal_W * weight_W, out.dtype.element_ty, WIDEN)
    tl.store(out + token * out_stride + head * out_head_stride + d_W, y_W, is_in)
