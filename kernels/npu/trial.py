"""What torch_npu can do on a device, tried at start-up: each operator once, against plain torch."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

import numpy as np
import torch

from .. import probe
from ..batch import AttentionSpec, RaggedBatch
from ..fallback import TorchOperators
from ..library import probed_specs
from ..operators import RopeStyle
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
    refused = _wrong_small_operators(device, library)
    operators = NpuOperators(device, library, refused)
    refused |= probe.refusals(operators, probed_specs(PROBED, ("window", "sinks")), device)
    for name, why in refused.items():
        logger.warning("torch_npu on %s: %s %s; something else does it", device, name, why)
    return refused


def _wrong_small_operators(device: torch.device, library: Any) -> dict[str, str]:
    """Those of torch_npu's that can't be used, and why."""
    ours, plain = NpuOperators(device, library), TorchOperators(device)
    return {
        name: why
        for name, run in _SMALL.items()
        if (why := _complaint(run, ours, plain, device)) is not None
    }


_Run = Callable[[NpuOperators | TorchOperators, torch.device], torch.Tensor]


def _complaint(
    run: _Run, ours: NpuOperators, plain: TorchOperators, device: torch.device
) -> str | None:
    try:
        return probe.difference(run(ours, device), run(plain, device))
    except Exception as error:  # CANN may raise anything; the reason is handed on
        return probe.failure(error)


def _batch(context: int) -> RaggedBatch:
    """The last three of so many tokens."""
    starts, contexts = np.array([0, 3], np.int32), np.array([context], np.int32)
    return RaggedBatch(starts, contexts, np.array([[1, 0]], np.int32), PROBED.page_tokens)


def _random(device: torch.device, *shape: int) -> torch.Tensor:
    x = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    return x.to(PROBED.dtype).to(device)


def _run_kv_write(operators: NpuOperators | TorchOperators, device: torch.device) -> torch.Tensor:
    cache = operators.allocate_cache(PROBED, 2)
    for x in (cache.k, cache.v):
        x.zero_()
    k_TMH, v_TMH = _random(device, 2, 3, PROBED.kv_heads, PROBED.head_size)
    slots_T = _batch(130).slots_T
    operators.kv_write(cache, k_TMH, v_TMH, slots_T)
    return torch.stack((cache.k, cache.v))


def _run_rms_norm(operators: NpuOperators | TorchOperators, device: torch.device) -> torch.Tensor:
    return operators.rms_norm(_random(device, 3, 256), _random(device, 256), 1e-5)[0]


def _run_rope(operators: NpuOperators | TorchOperators, device: torch.device) -> torch.Tensor:
    batch = _batch(7)
    angles = torch.arange(8.0)[:, None] * torch.arange(1.0, 33.0) / 32
    table_PR = torch.cat((angles.cos(), angles.sin()), dim=-1).to(device)
    turned = []
    styles: tuple[RopeStyle, ...] = ("neox", "llama")
    for style in styles:
        q_TNH, k_TMH = _random(device, 3, 4, 128), _random(device, 3, 2, 128)
        operators.rope_(q_TNH, k_TMH, batch.positions_T, table_PR, style)
        turned += [q_TNH, k_TMH]
    return torch.cat(turned, dim=1)


def _run_silu_mul(operators: NpuOperators | TorchOperators, device: torch.device) -> torch.Tensor:
    return operators.silu_mul(_random(device, 3, 512))


_SMALL: dict[str, _Run] = {
    "kv_write": _run_kv_write,
    "rms_norm": _run_rms_norm,
    "rope": _run_rope,
    "silu_mul": _run_silu_mul,
}
