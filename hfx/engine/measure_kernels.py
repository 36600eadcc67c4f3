"""Kernels apart from the step: how fast attention and the linear layers run on their own.

Rows for a reader, not for the fit: a step is more than its kernels. M rows of a product.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import cycle
from typing import TypeVar

import numpy as np
import torch

from hfx.kernels import AttentionSpec, KVCache, LinearWeights, Operators, RaggedBatch
from hfx.models import DecoderSpec

from .equip import Equipment

T = TypeVar("T")
CACHE_BYTES = 64 << 20  # more than processors cache: weights come from memory, as in a step
MOST_CONTEXT = 1024
REPEATS = 9
ROWS = (1, 16, 128)
ATTENTION = (("decodes", 1, 16), ("chunk", 128, 1))  # query tokens of each of so many sequences


@dataclass(frozen=True, slots=True)
class KernelTime:
    """One kernel at one shape: the median seconds of a call, and what it moved and computed."""

    name: str
    seconds: float
    nbytes: float
    flops: float

    @property
    def bytes_per_s(self) -> float:
        return self.nbytes / self.seconds

    @property
    def flops_per_s(self) -> float:
        return self.flops / self.seconds


@torch.inference_mode()
def kernel_times(equipment: Equipment, budget_s: float) -> list[KernelTime]:
    """Attention and every kind of linear layer alone; those that the budget allows."""
    ends_s = time.perf_counter() + budget_s
    decoder = equipment.model.decoder
    rows: list[KernelTime] = []
    attention = decoder.attention_spec(equipment.pool.block_tokens)
    for name, queries, sequences in ATTENTION:
        if time.perf_counter() < ends_s:
            context = min(MOST_CONTEXT, equipment.max_model_len)
            rows.append(_attend(decoder.operators, attention, name, queries, sequences, context))
    for name, outputs, inputs in products(decoder.spec):
        layers = -(-CACHE_BYTES // (outputs * inputs * decoder.dtype.itemsize))
        if time.perf_counter() < ends_s:
            weights = _weights(outputs, inputs, decoder.dtype)
            packed = [decoder.operators.pack_linear(weights) for _ in range(layers)]
            rows += [_linear(decoder.operators, name, packed, weights, m) for m in ROWS]
    return rows


def products(spec: DecoderSpec) -> list[tuple[str, int, int]]:
    """Name, outputs and inputs of a layer's products and of the head."""
    return [
        ("qkv", spec.query_width + 2 * spec.kv_width, spec.width),
        ("attention output", spec.width, spec.query_width),
        ("gate and up", 2 * spec.ffn_width, spec.width),
        ("down", spec.width, spec.ffn_width),
        ("head", spec.vocabulary, spec.width),
    ]


def _weights(outputs: int, inputs: int, dtype: torch.dtype) -> torch.Tensor:
    return torch.randn(outputs, inputs).mul_(inputs**-0.5).to(dtype)


def _attend(
    operators: Operators,
    spec: AttentionSpec,
    name: str,
    queries: int,
    sequences: int,
    context: int,
) -> KernelTime:
    """`sequences` of `queries` new tokens each at the end of `context` ones, one layer."""
    pages = -(-context // spec.page_tokens)
    queries = min(queries, context)
    batch = RaggedBatch(
        np.arange(0, (sequences + 1) * queries, queries, dtype=np.int32),
        np.full(sequences, context, dtype=np.int32),
        np.arange(sequences * pages, dtype=np.int32).reshape(sequences, pages),
        spec.page_tokens,
    )
    cache_bytes = sequences * pages * KVCache.bytes_per_page(spec)
    caches = []
    for _ in range(-(-CACHE_BYTES // cache_bytes)):
        cache = operators.allocate_cache(spec, sequences * pages)
        for part in (cache.k, cache.v):
            part.copy_(torch.randn_like(part[:1]).expand_as(part))
        caches.append(cache)
    q_TNH = torch.randn(sequences * queries, spec.query_heads, spec.head_size).to(spec.dtype)
    work = operators.plan(spec, batch)
    seconds = _median_s(lambda cache: operators.attend(q_TNH, cache, work), caches)
    pairs = sequences * queries * (context - queries / 2)
    return KernelTime(
        f"attention, {sequences} x {queries} {name} at {context}",
        seconds,
        sequences * context * KVCache.bytes_per_page(spec) / spec.page_tokens,
        4 * pairs * spec.query_heads * spec.head_size,
    )


def _linear(
    operators: Operators,
    name: str,
    packed: Sequence[LinearWeights],
    weight_OI: torch.Tensor,
    rows: int,
) -> KernelTime:
    outputs, inputs = weight_OI.shape
    x_MI = torch.randn(rows, inputs).to(weight_OI.dtype)
    seconds = _median_s(lambda weights: operators.linear(x_MI, weights), packed)
    moved = outputs * inputs + rows * (outputs + inputs)
    return KernelTime(
        f"{name}, {rows} x {inputs} -> {outputs}",
        seconds,
        moved * weight_OI.element_size(),
        2.0 * rows * outputs * inputs,
    )


def _median_s(call: Callable[[T], object], arguments: Sequence[T]) -> float:
    """The median call, its argument another one each time, so that none is in a cache."""
    times = []
    turns = cycle(arguments)
    for _ in range(REPEATS + 1):
        argument = next(turns)
        begun_s = time.perf_counter()
        call(argument)
        times.append(time.perf_counter() - begun_s)
    return float(np.median(times[1:]))
