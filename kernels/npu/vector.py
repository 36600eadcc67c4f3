"""Launches of the small Triton kernels on vector cores: grids, strides and constants, no checks.

Dimensions are those of `kernels.operators`. Positions and slots are on the device already.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from ..batch import KVCache
from ..draws import Draws
from ..gpu.configs import padded, scaling
from ..gpu.sample import sample_rows
from ..operators import RopeStyle
from . import small

BLOCK_NUMBERS = (
    4096  # that a program holds of one operand at a time; 4 of them in float32 are 64 KiB
)
ROTATED_NUMBERS = 2048  # of heads: pairs, their angles and both results at once
SAMPLED_NUMBERS = 1024  # 4,096, as on GPUs, need 304 KiB of 192
WIDEST_NORM = 8192  # a row stays in the buffer; 16,384 need 224 KiB of 192


@dataclass(frozen=True, slots=True)
class VectorCores:
    """So many of them, or the CPU under Triton's interpreter."""

    cores: int
    interpreted: bool = False

    def kv_write(
        self, cache: KVCache, k_TMH: torch.Tensor, v_TMH: torch.Tensor, slots_T: torch.Tensor
    ) -> None:
        """Each token's keys and values into its slot."""
        spec = cache.spec
        small.kv_write[(self._programs(len(slots_T)),)](
            k_TMH,
            v_TMH,
            cache.k,
            cache.v,
            cache.k_scale,
            cache.v_scale,
            slots_T,
            len(slots_T),
            k_TMH.stride(0),
            v_TMH.stride(0),
            M=spec.kv_heads,
            H=spec.head_size,
            W=padded(spec.head_size),
            SCALING=scaling(spec),
            HEADS=_heads_at_once(spec.kv_heads, spec.head_size, BLOCK_NUMBERS),
            WIDEN=self.interpreted,
        )

    def rope(
        self,
        q_TNH: torch.Tensor,
        k_TMH: torch.Tensor,
        v_TMH: torch.Tensor | None,
        positions_T: torch.Tensor,
        table_PR: torch.Tensor,
        style: RopeStyle,
        cache: KVCache | None = None,
        slots_T: torch.Tensor | None = None,
    ) -> None:
        """Rotate in place; with a cache, keys and values go there instead."""
        tokens, query_heads, size = q_TNH.shape
        kv_heads, rotary = k_TMH.shape[1], table_PR.shape[1]
        small.rope[(self._programs(tokens),)](
            q_TNH,
            k_TMH,
            v_TMH,
            None if cache is None else cache.k,
            None if cache is None else cache.v,
            None if cache is None else cache.k_scale,
            None if cache is None else cache.v_scale,
            positions_T,
            slots_T,
            table_PR,
            tokens,
            q_TNH.stride(0),
            k_TMH.stride(0),
            0 if v_TMH is None else v_TMH.stride(0),
            N=query_heads,
            M=kv_heads,
            H=size,
            W=padded(size),
            R=rotary,
            NEOX=style == "neox",
            WRITES=cache is not None,
            SCALING="" if cache is None else scaling(cache.spec),
            QUERY_HEADS=_heads_at_once(query_heads, size, ROTATED_NUMBERS),
            KV_HEADS=_heads_at_once(kv_heads, size, ROTATED_NUMBERS),
            PAIRS=padded(rotary // 2),
            WIDEN=self.interpreted,
        )

    def rms_norm(
        self,
        x: torch.Tensor,
        weight_D: torch.Tensor,
        eps: float,
        residual: torch.Tensor | None,
        out: torch.Tensor,
    ) -> None:
        """x, or the sum that residual becomes, over its root mean square, times weight."""
        heads, width = (x.shape[1] if x.ndim == 3 else 1), x.shape[-1]
        rows = len(x) * heads
        small.rms_norm[(self._programs(rows),)](
            x,
            weight_D,
            residual,
            out,
            eps,
            rows,
            x.stride(0),
            x.stride(1),
            0 if residual is None else residual.stride(0),
            out.stride(0),
            out.stride(1),
            HEADS=heads,
            D=width,
            W=padded(width),
            HAS_RESIDUAL=residual is not None,
            WIDEN=self.interpreted,
        )

    def silu_mul(self, gate_up_T2F: torch.Tensor, out_TF: torch.Tensor) -> None:
        """silu(gate) * up."""
        rows, width = out_TF.shape
        block = min(BLOCK_NUMBERS, padded(width))
        small.silu_mul[(self._programs(rows * -(-width // block)),)](
            gate_up_T2F,
            out_TF,
            rows,
            gate_up_T2F.stride(0),
            out_TF.stride(0),
            F=width,
            BLOCK=block,
            WIDEN=self.interpreted,
        )

    def sample(self, logits_RV: torch.Tensor, draws: Draws) -> torch.Tensor:
        """Token ids int64 [R]; a program has one row, there are too few to share out."""
        rows, vocabulary = logits_RV.shape
        tokens_R = torch.empty(rows, dtype=torch.int64, device=logits_RV.device)
        sample_rows[(rows,)](
            logits_RV,
            draws.temperature_R,
            draws.top_k_R,
            draws.top_p_R,
            draws.min_p_R,
            draws.seed_R,
            draws.step_R,
            tokens_R,
            vocabulary,
            logits_RV.stride(0),
            BLOCK=min(SAMPLED_NUMBERS, padded(vocabulary)),
        )
        return tokens_R

    def _programs(self, pieces: int) -> int:
        return min(self.cores, pieces)


def _heads_at_once(heads: int, head_size: int, numbers: int) -> int:
    """As many of a token's heads as make that many numbers."""
    return min(padded(heads), max(1, numbers // padded(head_size)))
