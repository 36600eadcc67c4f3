# mypy: disable-error-code="no-untyped-def, untyped-decorator, no-untyped-call"
"""The gate of a feed-forward: silu(gate) * up of rows that hold both side by side."""

from __future__ import annotations

import triton
import triton.language as tl

from .numbers import narrow


@triton.jit
def silu_mul(
    gate_up,
    out,
    gate_up_stride,
    out_stride,
    width,
    BLOCK: tl.constexpr,
    WIDEN: tl.constexpr,
):
    """A program has BLOCK numbers of one row."""
    token = tl.program_id(0).to(tl.int64)
    f = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    is_in = f < width
    row = gate_up + token * gate_up_stride + f
    gate = tl.load(row, is_in, other=0.0).to(tl.float32)
    up = tl.load(row + width, is_in, other=0.0).to(tl.float32)
    opened = narrow(gate * tl.sigmoid(gate), out.dtype.element_ty, WIDEN).to(tl.float32)
    tl.store(out + token * out_stride + f, narrow(opened * up, out.dtype.element_ty, WIDEN), is_in)
