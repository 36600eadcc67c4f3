"""The small Triton kernels, interpreted, against plain torch, which rounds where they do."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from hfx.kernels import AttentionSpec, KVCache, rope_table
from hfx.kernels.fallback import TorchOperators

DTYPES = [torch.float32, torch.float16, torch.bfloat16]
STORED = [None, torch.int8, torch.float8_e4m3fn]
PLAIN = TorchOperators(torch.device("cpu"))


def caches(operators, spec: AttentionSpec) -> tuple[KVCache, KVCache]:
    """Theirs and plain torch's, of 4 pages full of -7."""
    both = operators.allocate_cache(spec, 4), PLAIN.allocate_cache(spec, 4)
    for cache in both:
        for x in (cache.k, cache.v):
            x.copy_(torch.full(x.shape, -7.0))
    return both


def set_scales(cache: KVCache, k_scale: float, v_scale: float) -> None:
    """Give a cache that has one scale for all its keys, and one for its values, these."""
    if cache.spec.is_quantised and cache.spec.cache_scaling == "tensor":
        assert cache.k_scale is not None and cache.v_scale is not None
        cache.k_scale.fill_(k_scale)
        cache.v_scale.fill_(v_scale)


def assert_same(cache: KVCache, other: KVCache) -> None:
    for mine, theirs in (
        (cache.k, other.k),
        (cache.v, other.v),
        (cache.k_scale, other.k_scale),
        (cache.v_scale, other.v_scale),
    ):
        if mine is not None and theirs is not None:
            assert torch.equal(mine.float(), theirs.float())


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("stored", STORED, ids=str)
@pytest.mark.parametrize("scaling", ["token", "tensor"])
def test_tokens_land_in_their_slots_and_nowhere_else(operators, dtype, stored, scaling):
    spec = AttentionSpec(6, 3, 80, 16, dtype, cache_dtype=stored, cache_scaling=scaling)
    cache, plain = caches(operators, spec)
    fused = torch.randn(5, 700).to(dtype)
    k_TMH, v_TMH = fused[:, 200:440].view(-1, 3, 80), fused[:, 450:690].view(-1, 3, 80)
    k_TMH[2, 1] = 0.0  # no scale to be found
    set_scales(cache, 0.25, 3.0)
    set_scales(plain, 0.25, 3.0)
    slots_T = np.array([3, 63, 16, 0, 31])

    operators.kv_write(cache, k_TMH, v_TMH, slots_T)

    PLAIN.kv_write(plain, k_TMH, v_TMH, slots_T)
    assert_same(cache, plain)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("style", ["neox", "llama"])
@pytest.mark.parametrize("rotary", [48, 80])
def test_rotation_in_place_is_plain_torchs(operators, dtype, style, rotary):
    fused = torch.randn(4, 9 * 80).to(dtype)
    copy = fused.clone()
    positions_T = np.array([0, 7, 49, 3], np.int32)
    table_PR = rope_table(rotary, 10000.0, 50)

    for operate, rows in ((operators.rope_, fused), (PLAIN.rope_, copy)):
        heads = rows.view(4, 9, 80)
        operate(heads[:, :6], heads[:, 6:], positions_T, table_PR, style)

    torch.testing.assert_close(fused, copy, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("stored", STORED, ids=str)
@pytest.mark.parametrize(("style", "rotary"), [("neox", 64), ("llama", 64), ("neox", 32)])
@pytest.mark.parametrize("scaling", ["token", "tensor"])
def test_rotating_and_writing_at_once_is_both_in_turn(
    operators, dtype, stored, style, rotary, scaling
):
    spec = AttentionSpec(6, 3, 64, 16, dtype, cache_dtype=stored, cache_scaling=scaling)
    together, apart = caches(operators, spec)[0], caches(operators, spec)[0]
    set_scales(together, 0.25, 3.0)
    set_scales(apart, 0.25, 3.0)
    slots_T, positions_T = np.arange(3, 8), np.arange(5, dtype=np.int32) * 5
    table_PR = rope_table(rotary, 10000.0, 300)
    qkv = torch.randn(5, 12 * 64).to(dtype)
    ours, theirs = (
        [part.unflatten(1, (-1, 64)) for part in copy.split([384, 192, 192], dim=1)]
        for copy in (qkv.clone(), qkv.clone())
    )

    operators.rope_kv_write(*ours, positions_T, table_PR, style, together, slots_T)
    operators.rope_(theirs[0], theirs[1], positions_T, table_PR, style)
    operators.kv_write(apart, theirs[1], theirs[2], slots_T)

    assert torch.equal(ours[0], theirs[0])
    assert_same(together, apart)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("width", [64, 100, 1030])
def test_the_norm_is_plain_torchs_with_and_without_a_residual(operators, dtype, width):
    x_TD, weight_D = torch.randn(3, width).to(dtype), torch.randn(width).to(dtype)
    residual, plain_residual = (torch.ones(3, width, dtype=dtype) for _ in range(2))

    y_TD, same = operators.rms_norm(x_TD, weight_D, 1e-5)
    summed_TD, returned = operators.rms_norm(x_TD, weight_D, 1e-5, residual)

    tolerance = {"rtol": 4 * torch.finfo(dtype).eps, "atol": 0}  # sums are made in another order
    torch.testing.assert_close(y_TD, PLAIN.rms_norm(x_TD, weight_D, 1e-5)[0], **tolerance)
    expected_TD, _ = PLAIN.rms_norm(x_TD, weight_D, 1e-5, plain_residual)
    torch.testing.assert_close(summed_TD, expected_TD, **tolerance)
    assert torch.equal(residual, plain_residual)
    assert same is x_TD and returned is residual


def test_the_norm_of_single_heads_reads_strided_rows_and_may_be_in_place(operators):
    fused = torch.randn(3, 8 * 64)
    heads = fused.view(3, 8, 64)[:, 2:5]
    weight_D = torch.randn(64)
    expected, _ = PLAIN.rms_norm(heads, weight_D, 1e-6)
    rest = fused.view(3, 8, 64)[:, 5:].clone()

    operators.rms_norm(heads, weight_D, 1e-6, out=heads)

    torch.testing.assert_close(heads, expected, rtol=1e-6, atol=1e-6)
    assert torch.equal(fused.view(3, 8, 64)[:, 5:], rest)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("width", [5, 1500])
def test_the_gate_is_plain_torchs(operators, dtype, width):
    fused = torch.randn(3, 2 * width + 8).to(dtype)
    gate_up = fused[:, : 2 * width]
    out = torch.full((3, width + 3), -7.0, dtype=dtype)

    operators.silu_mul(gate_up, out=out[:, :width])

    tolerance = {"rtol": 2 * torch.finfo(dtype).eps, "atol": 1e-6}
    torch.testing.assert_close(out[:, :width], PLAIN.silu_mul(gate_up), **tolerance)
    assert (out[:, width:] == -7.0).all()


def test_nothing_is_launched_for_no_tokens(operators):
    empty = torch.empty(0, 4, 64)

    operators.rope_(empty, empty, np.empty(0, np.int32), rope_table(64, 1e4, 4), "neox")
    assert operators.rms_norm(torch.empty(0, 64), torch.ones(64), 1e-5)[0].shape == (0, 64)
    assert operators.silu_mul(torch.empty(0, 64)).shape == (0, 32)
