"""Packed linear layers on the CPU: the weight is laid out once as the inner loop reads it.

Dimensions: T rows (tokens), I inputs, O outputs. The layout is described in `linear.hpp`.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from .. import _cpu
from ..operators import LinearWeights

PLAIN, SILU_MUL = 0, 1  # the epilogues of linear.hpp
GATES_PER_PANEL = _cpu.PANEL // 2


@dataclass(frozen=True, slots=True, eq=False)
class PackedLinear(LinearWeights):
    """A weight in panels. A gated layer's product never reaches memory ungated."""

    panels: torch.Tensor
    bias: torch.Tensor | None  # float32, in the panels' order, padded to whole panels


def objection(weight_OI: torch.Tensor, gated: bool) -> str | None:
    """Why this weight can't be packed, or None if it can."""
    outputs, inputs = weight_OI.shape
    if weight_OI.dtype not in (torch.bfloat16, torch.float32):
        return f"weights are {weight_OI.dtype}: bfloat16 and float32 can be packed"
    if weight_OI.dtype == torch.bfloat16 and inputs % 2:
        return f"{inputs} inputs: bfloat16 weights are packed in pairs, so inputs must be even"
    if gated and outputs % (2 * GATES_PER_PANEL):
        return f"{outputs} gated outputs: they must be a multiple of {2 * GATES_PER_PANEL}"
    return None


def pack_linear(
    weight_OI: torch.Tensor, bias_O: torch.Tensor | None, *, gated: bool, threads: int
) -> PackedLinear:
    """Copy a weight into panels; there must be no `objection` to it."""
    weight_OI = weight_OI if weight_OI.stride(1) == 1 else weight_OI.contiguous()
    outputs, inputs = weight_OI.shape
    panels = -(-outputs // _cpu.PANEL)
    packed = torch.empty(panels * _cpu.PANEL * inputs, dtype=weight_OI.dtype)
    _cpu.pack_linear(
        weight=weight_OI.data_ptr(),
        stride=weight_OI.stride(0),
        panels=packed.data_ptr(),
        outputs=outputs,
        inputs=inputs,
        bf16=weight_OI.dtype == torch.bfloat16,
        epilogue=SILU_MUL if gated else PLAIN,
        threads=threads,
    )
    bias = None if bias_O is None else _bias_in_panels(bias_O, panels * _cpu.PANEL, gated)
    return PackedLinear(outputs, inputs, gated, packed, bias)


def _bias_in_panels(bias_O: torch.Tensor, columns: int, gated: bool) -> torch.Tensor:
    if gated:
        gate_and_up = bias_O.float().view(2, -1, GATES_PER_PANEL)
        return gate_and_up.transpose(0, 1).reshape(-1).contiguous()
    padded = torch.zeros(columns)
    padded[: len(bias_O)] = bias_O
    return padded


def linear(
    x_TI: torch.Tensor,
    packed: PackedLinear,
    out: torch.Tensor | None,
    *,
    level: int,
    threads: int,
) -> torch.Tensor:
    """x W^T + bias, or silu(gate) * up of it; float32 if `out` is float32.

    Rows of x may be strided; within a row, numbers are contiguous.
    """
    rows = x_TI.shape[0]
    if out is None:
        out = torch.empty(rows, packed.width, dtype=x_TI.dtype)
    _cpu.linear(
        x_TI.data_ptr(),
        x_TI.stride(0),
        rows,
        packed.panels.data_ptr(),
        packed.outputs,
        packed.inputs,
        0 if packed.bias is None else packed.bias.data_ptr(),
        out.data_ptr(),
        out.stride(0),
        x_TI.dtype == torch.bfloat16,
        out.dtype == torch.float32,
        SILU_MUL if packed.gated else PLAIN,
        level,
        threads,
    )
    return out
