"""Prices of a device that nobody measured: bytes moved and operations done, whichever is longer.

A prior, not a measurement: its estimates say that they are extrapolated, and their bound is wide.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from .devices import Device
from .link import Link, Startup
from .regime import Piece, Regime
from .step import Key, StepCost

UPPER_FACTOR = 1.5  # an unmeasured device may be that much slower than its data sheet says
ATTENTION_SHARE = 0.6  # of the matrix rate that attention reaches: its softmax runs elsewhere
KERNELS_PER_LAYER = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """A dense decoder's sizes.

    Raises:
        ValueError: a size is below 1.
    """

    layers: int
    width: int
    ffn_width: int
    query_heads: int
    kv_heads: int
    head_size: int
    vocabulary: int
    element_bytes: int = 2

    def __post_init__(self) -> None:
        for name in Sizes.__slots__:
            if not getattr(self, name) >= 1:
                raise ValueError(f"{name} is {getattr(self, name)}: it must be at least 1")

    @classmethod
    def of(cls, config: Mapping[str, Any], element_bytes: int = 2) -> Sizes:
        """The sizes in a Hugging Face `config.json`.

        Raises:
            ValueError: a size is missing.
        """
        try:
            heads = config["num_attention_heads"]
            return cls(
                layers=config["num_hidden_layers"],
                width=config["hidden_size"],
                ffn_width=config["intermediate_size"],
                query_heads=heads,
                kv_heads=config.get("num_key_value_heads") or heads,
                head_size=config.get("head_dim") or config["hidden_size"] // heads,
                vocabulary=config["vocab_size"],
                element_bytes=element_bytes,
            )
        except KeyError as error:
            raise ValueError(f"the model's configuration has no {error}: add it") from error

    @property
    def kv_bytes_per_token(self) -> int:
        return 2 * self.layers * self.kv_heads * self.head_size * self.element_bytes

    @property
    def layer_matrices(self) -> tuple[tuple[int, int], ...]:
        """(inputs, outputs) of one layer's products: qkv, attention's output, gate and up, down."""
        query, kv = self.query_heads * self.head_size, self.kv_heads * self.head_size
        return (
            (self.width, query + 2 * kv),
            (query, self.width),
            (self.width, 2 * self.ffn_width),
            (self.ffn_width, self.width),
        )

    @property
    def weight_bytes(self) -> int:
        """Layers, embedding and head."""
        layer = sum(n * k for n, k in self.layer_matrices)
        return self.element_bytes * (self.layers * layer + 2 * self.width * self.vocabulary)


def all_reduce_s(nbytes: float, ranks: int, device: Device) -> float:
    """A ring all-reduce: each rank sends 2 (ranks - 1) / ranks of the bytes, after a delay.

    Raises:
        ValueError: there is more than one rank and the device has no links.
    """
    if ranks == 1:
        return 0.0
    if not device.link_bytes_per_s:
        raise ValueError(f"{device.name} has no links: tensor_parallel must be 1")
    rate = device.link_bytes_per_s * device.bytes_share
    return device.link_latency_s + 2 * (ranks - 1) / ranks * nbytes / rate


def roofline(
    sizes: Sizes, device: Device, *, model: str, tensor_parallel: int = 1, dtype: str = "bfloat16"
) -> StepCost:
    """The prior of a model on a device, split over `tensor_parallel` of them.

    Raises:
        ValueError: there are more ranks than heads, or the device has no links.
    """
    ranks = tensor_parallel
    if not 1 <= ranks <= sizes.query_heads:
        raise ValueError(
            f"tensor_parallel is {ranks}: it must be from 1 to {sizes.query_heads}, the query heads"
        )
    flops = device.flops_per_s * device.flops_share * ranks
    rate = device.bytes_per_s * device.bytes_share * ranks
    knots, curve, slope = _curve(sizes, device, ranks)
    head = sizes.width * sizes.vocabulary
    # The rank with most heads decides: some have one more, or copies where ranks outnumber heads.
    kv_share = ranks * math.ceil(sizes.kv_heads / ranks) / sizes.kv_heads
    kv_token_s = sizes.kv_bytes_per_token * kv_share / rate
    pair_flops = 4 * sizes.layers * sizes.query_heads * sizes.head_size
    pieces = (
        Piece(
            per_decode_context_token_s=kv_token_s,
            per_prefill_context_token_s=kv_token_s,
            per_attention_pair_s=pair_flops / (flops * ATTENTION_SHARE),
        ),
    )
    regime = Regime(
        knots_tokens=knots,
        curve_s=curve,
        per_token_s=slope,
        per_decode_s=2 * head / flops,
        per_chunk_s=2 * head / flops,
        pieces=pieces,
        upper_factor=UPPER_FACTOR,
    )
    links = {}
    if device.link_bytes_per_s:
        links["device"] = Link(device.link_bytes_per_s * device.bytes_share, device.link_latency_s)
    return StepCost(
        key=Key(device=device.name, model=model, dtype=dtype, tensor_parallel=ranks),
        decode=regime,
        mixed=regime,
        kv_bytes_per_token=math.ceil(sizes.kv_bytes_per_token * kv_share),
        links=links,
        startup=Startup({}, math.ceil(sizes.weight_bytes / ranks)),
        source=f"roofline, nothing measured: {device.source}",
    )


def _curve(
    sizes: Sizes, device: Device, ranks: int
) -> tuple[tuple[float, ...], tuple[float, ...], float]:
    """Knots, values and last slope of the matrix products' time over the step's rows.

    Each product turns from bandwidth-bound to compute-bound at rows of its own: those are the
    knots, so that the curve is the sum exactly.
    """
    flops = device.flops_per_s * device.flops_share * ranks
    rate = device.bytes_per_s * device.bytes_share * ranks

    def product_s(rows: float, inputs: int, outputs: int) -> float:
        moved = sizes.element_bytes * (inputs * outputs + rows * (inputs + outputs))
        return max(moved / rate, 2 * rows * inputs * outputs / flops)

    def step_s(rows: float) -> float:
        layer_s = sum(product_s(rows, *matrix) for matrix in sizes.layer_matrices)
        reduced = all_reduce_s(rows * sizes.width * sizes.element_bytes, ranks, device)
        kernels_s = KERNELS_PER_LAYER * device.launch_s
        head_s = sizes.width * sizes.vocabulary * sizes.element_bytes / rate
        return device.step_s + sizes.layers * (layer_s + 2 * reduced + kernels_s) + head_s

    turns = {0.0}
    for inputs, outputs in sizes.layer_matrices:
        saved = 2 * inputs * outputs / flops - sizes.element_bytes * (inputs + outputs) / rate
        if saved > 0:
            turns.add(sizes.element_bytes * inputs * outputs / rate / saved)
    knots = tuple(sorted(turns))
    last = knots[-1]
    return knots, tuple(map(step_s, knots)), (step_s(last + 1e4) - step_s(last)) / 1e4
