# mypy: disable-error-code="no-untyped-def, untyped-decorator, no-untyped-call"
"""Number formats in kernels: what the interpreter and the hardware can multiply, and rounding."""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def narrow(x, dtype: tl.constexpr, WIDEN: tl.constexpr):
    """float32 x in a narrower type, to the nearest, ties to even.

    WIDEN is for the interpreter, which cuts bits off instead: there x is rounded first, to a
    float32 that the narrow type holds exactly.
    """
    if WIDEN and dtype == tl.bfloat16:
        x = _to_bits(x, 16)
    elif WIDEN and dtype == tl.float8e4nv:
        small = (x + 24576.0) - 24576.0  # 1.5 * 2^14, whose last bit is 2^-9: float8's least step
        x = tl.where(tl.abs(x) < 0.015625, small, _to_bits(x, 20))
    return x.to(dtype)


@triton.jit
def _to_bits(x, dropped: tl.constexpr):
    """float32 x rounded so that its last bits are 0."""
    bits = x.to(tl.int32, bitcast=True)
    bits += (1 << (dropped - 1)) - 1 + ((bits >> dropped) & 1)
    return ((bits >> dropped) << dropped).to(tl.float32, bitcast=True)


@triton.jit
def operand(x, dtype: tl.constexpr, WIDEN: tl.constexpr):
    """x as an operand of tl.dot of that type.

    WIDEN is for the interpreter, whose tl.dot multiplies the bits of a bfloat16 as integers: the
    rounded numbers go in as float32.
    """
    if WIDEN:
        if x.dtype == tl.float32:
            x = narrow(x, dtype, WIDEN)
        x = x.to(tl.float32)
    else:
        x = x.to(dtype)
    return x


@triton.jit
def stored(x, dtype: tl.constexpr, WIDEN: tl.constexpr):
    """float32 x as a quantised cache stores it, saturated; to the nearest, ties to even."""
    if dtype == tl.int8:
        x = tl.minimum(tl.maximum(x, -127.0), 127.0)
        x = ((x + 12582912.0) - 12582912.0).to(tl.int8)  # 1.5 * 2^23 has no bits for a fraction
    else:
        x = narrow(tl.minimum(tl.maximum(x, -448.0), 448.0), dtype, WIDEN)
    return x


@triton.jit
def limit(dtype: tl.constexpr):
    """The largest number that a quantised cache stores."""
    largest: tl.constexpr = 127.0 if dtype == tl.int8 else 448.0
    return largest
