"""The cases of `benchmarks.linear` in pytest-benchmark's form: packed weights beside F.linear."""

from __future__ import annotations

from functools import cache

import pytest
import torch
from torch.nn.functional import linear

from benchmarks.linear import ROWS, SHAPES, Layer, in_turn
from benchmarks.timing import settle
from hfx.kernels import select


@cache
def layer_of(name: str) -> Layer:
    return Layer.of(name, select("cpu"))


@pytest.mark.parametrize("way", ["cpu", "torch"])
@pytest.mark.parametrize("rows", ROWS)
@pytest.mark.parametrize("name", SHAPES)
def test_linear(benchmark, name: str, rows: int, way: str):
    layer, operators = layer_of(name), select("cpu")
    x_MI = torch.randn(rows, layer.plain[0].shape[1]).bfloat16()
    layer.error(operators, x_MI)
    if way == "cpu":
        call = in_turn(lambda weights: operators.linear(x_MI, weights), layer.packed)
    else:
        call = in_turn(lambda weight: linear(x_MI, weight), layer.plain)
    benchmark.group = f"linear: {name}, {rows} rows"
    benchmark.extra_info |= {"way": way, "threads": torch.get_num_threads()}
    settle(call)

    benchmark(call)
