"""Fills a decoder's weights from a checkpoint: every tensor straight into its place, then packed.

Threads read (and dequantise) a few layers ahead of the caller's, which packs; so the originals of
no more than those layers exist at once. D residual width, V vocabulary.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import torch

from hfx.kernels import Operators

from .checkpoint import Checkpoint
from .decoder import DecoderWeights, LayerWeights

Progress = Callable[[str, float], None]
READERS = min(4, os.cpu_count() or 1)
AHEAD = READERS + 1  # layers that may wait, unpacked


@dataclass(frozen=True, slots=True)
class _Source:
    checkpoint: Checkpoint
    dtype: torch.dtype
    device: torch.device

    def tensor(self, *names: str) -> torch.Tensor:
        """The named tensors on top of each other, [sum of rows, columns]."""
        shapes = self.checkpoint.spec.tensor_shapes()
        rows = [shapes[name][0] for name in names]
        shape = (sum(rows), *shapes[names[0]][1:])
        tensor = torch.empty(shape, dtype=self.dtype, device=self.device)
        start = 0
        for name, count in zip(names, rows, strict=True):
            part = tensor[start : start + count]
            # A vector is read as one row.
            self.checkpoint.read(name, part if part.dim() == 2 else part.unsqueeze(0))
            start += count
        return tensor


@dataclass(frozen=True, slots=True, eq=False)
class _Linear:
    """A linear layer before packing."""

    weight_OI: torch.Tensor
    bias_O: torch.Tensor | None


@dataclass(frozen=True, slots=True, eq=False)
class _RawLayer:
    norms: dict[str, torch.Tensor]
    linears: dict[str, _Linear]


LINEARS = {
    "qkv": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    "output": ("self_attn.o_proj",),
    "gate_up": ("mlp.gate_proj", "mlp.up_proj"),
    "down": ("mlp.down_proj",),
}
NORMS = {
    "input_norm_D": "input_layernorm",
    "ffn_norm_D": "post_attention_layernorm",
    "q_norm_H": "self_attn.q_norm",
    "k_norm_H": "self_attn.k_norm",
}


def load_weights(
    checkpoint: Checkpoint,
    operators: Operators,
    dtype: torch.dtype,
    device: torch.device,
    progress: Progress,
) -> DecoderWeights:
    """Read, round to `dtype` and pack all weights; `progress` hears the fraction done."""
    source = _Source(checkpoint, dtype, device)
    spec = checkpoint.spec
    with ThreadPoolExecutor(READERS, thread_name_prefix="hfx-weights") as pool:
        embedding = pool.submit(source.tensor, "model.embed_tokens.weight")
        head = None if spec.tied_embeddings else pool.submit(source.tensor, "lm_head.weight")
        layers = []
        for raw in _ahead(pool, source):
            layers.append(_packed_layer(raw, operators))
            progress("loading weights", len(layers) / (spec.layers + 1))
        embedding_VD = embedding.result()
        head_VD = embedding_VD if head is None else head.result()
        final_norm_D = source.tensor("model.norm.weight")
    weights = DecoderWeights(
        embedding_VD, tuple(layers), final_norm_D, operators.pack_linear(head_VD)
    )
    progress("loading weights", 1.0)
    return weights


def _ahead(pool: ThreadPoolExecutor, source: _Source) -> Iterator[_RawLayer]:
    waiting: deque[Future[_RawLayer]] = deque()
    for layer in range(source.checkpoint.spec.layers):
        waiting.append(pool.submit(_read_layer, source, f"model.layers.{layer}."))
        if len(waiting) > AHEAD:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()


def _read_layer(source: _Source, prefix: str) -> _RawLayer:
    shapes = source.checkpoint.spec.tensor_shapes()
    norms = {
        name: source.tensor(f"{prefix}{theirs}.weight")
        for name, theirs in NORMS.items()
        if f"{prefix}{theirs}.weight" in shapes
    }
    linears = {
        name: _Linear(
            source.tensor(*(f"{prefix}{part}.weight" for part in parts)),
            source.tensor(*(f"{prefix}{part}.bias" for part in parts))
            if f"{prefix}{parts[0]}.bias" in shapes
            else None,
        )
        for name, parts in LINEARS.items()
    }
    return _RawLayer(norms, linears)


def _packed_layer(raw: _RawLayer, operators: Operators) -> LayerWeights:
    packed = {
        name: operators.pack_linear(linear.weight_OI, linear.bias_O, gated=name == "gate_up")
        for name, linear in raw.linears.items()
    }
    return LayerWeights(
        input_norm_D=raw.norms["input_norm_D"],
        ffn_norm_D=raw.norms["ffn_norm_D"],
        q_norm_H=raw.norms.get("q_norm_H"),
        k_norm_H=raw.norms.get("k_norm_H"),
        **packed,
    )
