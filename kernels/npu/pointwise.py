"""torch_npu's small operators, with the meaning that `kernels.operators` gives them.

Each takes the library as its first argument. T tokens, N or M heads, H head size, R rotary
dimensions.
"""

from __future__ import annotations

from typing import Any

import torch

from ..batch import KVCache
from ..operators import RopeStyle


def kv_write(
    library: Any, cache: KVCache, k_TMH: torch.Tensor, v_TMH: torch.Tensor, slots_T: torch.Tensor
) -> None:
    """Each token's keys and values into its slot; "Norm" is a cache in rows as they come."""
    library.npu_scatter_pa_kv_cache(
        k_TMH.contiguous(), v_TMH.contiguous(), cache.k, cache.v, slots_T, cache_mode="Norm"
    )


def rms_norm(library: Any, x: torch.Tensor, weight_D: torch.Tensor, eps: float) -> torch.Tensor:
    """x / rms(x) * weight over the last dimension."""
    y = library.npu_rms_norm(x, weight_D, eps)[0]
    assert isinstance(y, torch.Tensor)
    return y


def rope_(library: Any, x_TNH: torch.Tensor, row_TR: torch.Tensor, style: RopeStyle) -> None:
    """Rotate the first R dimensions in place, by a row of cosines and sines a token.

    In float32, as everywhere: the operator wants angles in the type of what it rotates, and an
    angle's cosine in bfloat16 is off by more than the result's own rounding.
    """
    cos, sin = row_TR.chunk(2, dim=-1)
    if style == "neox":
        mode, pairs = "half", [torch.cat((half, half), dim=-1) for half in (cos, sin)]
    else:
        mode, pairs = "interleave", [half.repeat_interleave(2, dim=-1) for half in (cos, sin)]
    rotary = x_TNH[..., : row_TR.shape[-1]]
    cos_1T1R, sin_1T1R = (pair[None, :, None, :] for pair in pairs)
    wide_1TNR = rotary.float().contiguous()[None]
    rotary.copy_(library.npu_rotary_mul(wide_1TNR, cos_1T1R, sin_1T1R, mode)[0])


def silu_mul(library: Any, gate_up_T2F: torch.Tensor) -> torch.Tensor:
    """silu(gate) * up of rows that hold both side by side."""
    y = library.npu_swiglu(gate_up_T2F, dim=-1)
    assert isinstance(y, torch.Tensor)
    return y
