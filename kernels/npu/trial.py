"""What a device gets right, tried at start-up: each operator once, against plain torch."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import torch

from .. import probe
from ..batch import AttentionSpec, KVCache, RaggedBatch
from ..draws import Draws
from ..fallback import TorchOperators
from ..library import probed_specs
from ..operators import Operators, RopeStyle
from .fused_infer import DISPUTED
from .library import NEEDS, import_torch_npu
from .operators import NpuOperators

logger = logging.getLogger(__name__)

PROBED = AttentionSpec(4, 2, 128, 128, torch.bfloat16)


def load(device: torch.device) -> NpuOperators:
    """The operators, once torch_npu has been tried on that device.

    Raises:
        ImportError: there is no torch_npu, or its fused operator is missing or wrong here.
    """
    return tried(device, import_torch_npu())


def tried(device: torch.device, library: Any) -> NpuOperators:
    """Operators that know what that library gets wrong on that device.

    Raises:
        ImportError: its fused operator can't do plain causal attention.
    """
    refused = _refused(device, library)
    fatal = refused.get("causal attention")
    if fatal is not None:
        raise ImportError(f"{NEEDS}: npu_fused_infer_attention_score_v2 {fatal}")
    return NpuOperators(device, library, refused)


@cache
def _refused(device: torch.device, library: Any) -> Mapping[str, str]:
    """What is wrong there, found once a process."""
    refused = wrong_small_operators(NpuOperators(device, library), TorchOperators(device), device)
    operators = NpuOperators(device, library, refused)
    specs = probed_specs(PROBED, ("window", "sinks"))
    specs |= {name: replace(PROBED, **asked) for name, asked in DISPUTED.items()}
    refused |= probe.refusals(operators, specs, device)
    for name, why in refused.items():
        logger.warning("torch_npu on %s: %s %s; something else does it", device, name, why)
    return refused


def wrong_small_operators(
    ours: Operators, plain: TorchOperators, device: torch.device
) -> dict[str, str]:
    """Those of ours that can't be used there, and why."""
    return {
        name: why
        for name, run in _SMALL.items()
        if (why := _complaint(run, ours, plain, device)) is not None
    }


_Run = Callable[[Operators, torch.device], torch.Tensor]


def _complaint(
    run: _Run, ours: Operators, plain: TorchOperators, device: torch.device
) -> str | None:
    try:
        return probe.difference(run(ours, device), run(plain, device))
    except Exception as error:  # CANN may raise anything; the reason is handed on
        return probe.failure(error)


def _batch(context: int) -> RaggedBatch:
    """The last three of so many tokens."""
    starts, contexts = np.array([0, 3], np.int32), np.array([context], np.int32)
    return RaggedBatch(starts, contexts, np.array([[1, 0]], np.int32), PROBED.page_tokens)


def _random(device: torch.device, *shape: int, dtype: torch.dtype = PROBED.dtype) -> torch.Tensor:
    x = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    return x.to(dtype).to(device)


def _empty_cache(operators: Operators) -> KVCache:
    cache = operators.allocate_cache(PROBED, 2)
    for x in (cache.k, cache.v):
        x.zero_()
    return cache


def _table(device: torch.device, positions: int) -> torch.Tensor:
    """Cosines and sines for half of a head."""
    angles = torch.arange(float(positions))[:, None] * torch.arange(1.0, 33.0) / 32
    return torch.cat((angles.cos(), angles.sin()), dim=-1).to(device)


def _run_kv_write(operators: Operators, device: torch.device) -> torch.Tensor:
    cache = _empty_cache(operators)
    k_TMH, v_TMH = _random(device, 2, 3, PROBED.kv_heads, PROBED.head_size)
    slots_T = _batch(130).slots_T
    operators.kv_write(cache, k_TMH, v_TMH, slots_T)
    return torch.stack((cache.k, cache.v))


def _run_rms_norm(operators: Operators, device: torch.device) -> torch.Tensor:
    x, weight, total = _random(device, 3, 256), _random(device, 256), _random(device, 2, 3, 256)[1]
    normed, left = operators.rms_norm(x, weight, 1e-5, total)
    return torch.cat((normed, left, operators.rms_norm(x, weight, 1e-5)[0]))


def _run_rope(operators: Operators, device: torch.device) -> torch.Tensor:
    batch, table_PR = _batch(7), _table(device, 8)
    turned = []
    styles: tuple[RopeStyle, ...] = ("neox", "llama")
    for style in styles:
        q_TNH, k_TMH = _random(device, 3, 4, 128), _random(device, 3, 2, 128)
        operators.rope_(q_TNH, k_TMH, batch.positions_T, table_PR, style)
        turned += [q_TNH, k_TMH]
    return torch.cat(turned, dim=1)


def _run_rope_kv_write(operators: Operators, device: torch.device) -> torch.Tensor:
    batch, table_PR, cache = _batch(130), _table(device, 130), _empty_cache(operators)
    q_TNH, k_TMH = _random(device, 3, PROBED.query_heads, 128), _random(device, 3, 2, 128)
    operators.rope_kv_write(
        q_TNH, k_TMH, k_TMH + 1, batch.positions_T, table_PR, "neox", cache, batch.slots_T
    )
    return torch.cat((cache.k.flatten(), cache.v.flatten(), q_TNH.flatten()))


def _run_silu_mul(operators: Operators, device: torch.device) -> torch.Tensor:
    return operators.silu_mul(_random(device, 3, 512))


def _run_sample(operators: Operators, device: torch.device) -> torch.Tensor:
    """Three ways of asking for the best token, two of them by drawing among those that are left."""
    logits_RV = _random(device, 3, 2000, dtype=torch.float32)
    if not operators.samples:
        return logits_RV.argmax(dim=-1)

    def column(*values: float, dtype: torch.dtype = torch.float32) -> torch.Tensor:
        return torch.tensor(values, dtype=dtype, device=device)

    draws = Draws(
        column(0.0, 1.0, 0.7),
        column(0, 1, 0, dtype=torch.int32),
        column(1.0, 1.0, 1e-6),
        column(0.0, 0.0, 0.0),
        column(1, 2, 3, dtype=torch.int64),
        column(0, 1, 2, dtype=torch.int32),
    )
    return operators.sample(logits_RV, draws)


_SMALL: dict[str, _Run] = {
    "kv_write": _run_kv_write,
    "rms_norm": _run_rms_norm,
    "rope": _run_rope,
    "rope_kv_write": _run_rope_kv_write,
    "silu_mul": _run_silu_mul,
    "sample": _run_sample,
}
