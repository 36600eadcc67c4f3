"""Fills a decoder's weights from a checkpoint: every tensor straight into its place, then packed.

Each of a few threads takes one layer at a time from file to packed form, so that the originals of
no more than those layers exist at once. D residual width, V vocabulary.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import torch

from hfx.kernels import LinearWeights, Operators

from .checkpoint import Checkpoint
from .decoder import DecoderWeights, LayerWeights
from .shard import Shard

Progress = Callable[[str, float], None]
THREADS = min(4, os.cpu_count() or 1)  # more would wait for memory


@dataclass(frozen=True, slots=True)
class _Source:
    checkpoint: Checkpoint
    cuts: Mapping[str, tuple[range, ...]]  # of each dimension of the named tensor
    dtype: torch.dtype
    device: torch.device

    def tensor(self, *names: str) -> torch.Tensor:
        """The named tensors on top of each other, [sum of rows, columns]."""
        rows = [len(self.cuts[name][0]) for name in names]
        shape = (sum(rows), *map(len, self.cuts[names[0]][1:]))
        tensor = torch.empty(shape, dtype=self.dtype)
        start = 0
        for name, count in zip(names, rows, strict=True):
            part = tensor[start : start + count]
            cuts = [slice(cut.start, cut.stop) for cut in self.cuts[name]]
            if part.dim() == 1:  # a vector is read as one row
                part, cuts = part.unsqueeze(0), [slice(None), *cuts]
            self.checkpoint.read(name, part, *cuts)
            start += count
        return tensor.to(self.device)  # whole, since small copies to a device are slow

    def linear(self, operators: Operators, *names: str, gated: bool = False) -> LinearWeights:
        """The named linear layers as one, packed."""
        weight_OI = self.tensor(*(f"{name}.weight" for name in names))
        biases = [f"{name}.bias" for name in names]
        bias_O = self.tensor(*biases) if biases[0] in self.cuts else None
        return operators.pack_linear(weight_OI, bias_O, gated=gated)


def load_weights(
    checkpoint: Checkpoint,
    shard: Shard,
    operators: Operators,
    dtype: torch.dtype,
    device: torch.device,
    progress: Progress,
) -> DecoderWeights:
    """Read a rank's part of all weights, round it to `dtype` and pack it.

    `progress` hears the fraction done.
    """
    spec = checkpoint.spec
    source = _Source(checkpoint, shard.cuts(), dtype, device)
    with ThreadPoolExecutor(THREADS, thread_name_prefix="hfx-weights") as pool:
        # The largest come first, so that no thread is left with them at the end.
        tables = pool.submit(_load_tables, source, operators)
        layers = []
        for layer in pool.map(
            lambda index: _load_layer(source, operators, f"model.layers.{index}."),
            range(spec.layers),
        ):
            layers.append(layer)
            progress("loading weights", len(layers) / (spec.layers + 1))
        embedding_VD, head = tables.result()
    final_norm_D = source.tensor("model.norm.weight")
    progress("loading weights", 1.0)
    return DecoderWeights(embedding_VD, tuple(layers), final_norm_D, head)


def _load_tables(source: _Source, operators: Operators) -> tuple[torch.Tensor, LinearWeights]:
    """The embedding, whose rows are looked up, and the head, packed even if it's the same."""
    embedding_VD = source.tensor("model.embed_tokens.weight")
    if source.checkpoint.spec.tied_embeddings:
        return embedding_VD, operators.pack_linear(embedding_VD)
    return embedding_VD, source.linear(operators, "lm_head")


def _load_layer(source: _Source, operators: Operators, prefix: str) -> LayerWeights:
    def norm(name: str) -> torch.Tensor:
        return source.tensor(f"{prefix}{name}.weight")

    def linear(*names: str, gated: bool = False) -> LinearWeights:
        return source.linear(operators, *(prefix + name for name in names), gated=gated)

    has_qk_norm = source.checkpoint.spec.qk_norm
    return LayerWeights(
        input_norm_D=norm("input_layernorm"),
        qkv=linear("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
        q_norm_H=norm("self_attn.q_norm") if has_qk_norm else None,
        k_norm_H=norm("self_attn.k_norm") if has_qk_norm else None,
        output=linear("self_attn.o_proj"),
        ffn_norm_D=norm("post_attention_layernorm"),
        gate_up=linear("mlp.gate_proj", "mlp.up_proj", gated=True),
        down=linear("mlp.down_proj"),
    )
