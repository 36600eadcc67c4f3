"""Keys and values land in their slots, bit for bit, and nowhere else."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from hfx.kernels import AttentionSpec, KVCache, rope_table

DTYPES = [torch.float32, torch.bfloat16]


def by_slot(cache: KVCache) -> tuple[torch.Tensor, torch.Tensor]:
    """Keys and values as [slots, M, H], whatever the layout."""
    k, v = cache.k, cache.v
    if cache.backend == "cpu" and cache.spec.dtype == torch.bfloat16:
        k = k.permute(0, 3, 1, 2, 4)  # [pages, M, H / 2, tokens, 2]
        v = v.permute(0, 2, 4, 1, 3)  # [pages, M, tokens / 2, H, 2]
    elif cache.backend == "cpu":
        k = k.permute(0, 3, 1, 2)  # [pages, M, H, tokens]
        v = v.permute(0, 2, 1, 3)  # [pages, M, tokens, H]
    shape = (-1, cache.spec.kv_heads, cache.spec.head_size)
    return k.reshape(shape), v.reshape(shape)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("page", [16, 64])
@pytest.mark.parametrize("tokens", [1, 7, 90])
def test_tokens_land_in_their_slots_and_nowhere_else(any_operators, dtype, page, tokens):
    spec = AttentionSpec(6, 3, 80, page, dtype)
    cache = any_operators.allocate_cache(spec, 8)
    cache.k.fill_(-7.0)
    cache.v.fill_(-7.0)
    slots_T = np.random.default_rng(tokens).permutation(8 * page)[:tokens]
    fused = torch.randn(tokens, 700).to(dtype)
    k_TMH, v_TMH = fused[:, 200:440].view(-1, 3, 80), fused[:, 450:690].view(-1, 3, 80)

    any_operators.kv_write(cache, k_TMH, v_TMH, slots_T)

    for stored, written in zip(by_slot(cache), (k_TMH, v_TMH), strict=True):
        expected = torch.full_like(stored, -7.0)
        expected[slots_T] = written.to(expected.dtype)
        assert torch.equal(stored, expected)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("style", ["neox", "llama"])
@pytest.mark.parametrize("tokens", [1, 50])
def test_rotating_and_writing_at_once_is_both_in_turn(any_operators, dtype, style, tokens):
    spec = AttentionSpec(6, 3, 64, 16, dtype)
    caches = [any_operators.allocate_cache(spec, 4) for _ in range(2)]
    for cache in caches:
        cache.k.fill_(0.0)
        cache.v.fill_(0.0)
    slots_T = np.arange(3, 3 + tokens)
    positions_T = np.arange(tokens, dtype=np.int32) * 5
    table_PR = rope_table(64, 10000.0, 300)
    torch.manual_seed(tokens)
    qkv = torch.randn(tokens, 12 * 64).to(dtype)
    together, apart = (
        [part.unflatten(1, (-1, 64)) for part in copy.split([384, 192, 192], dim=1)]
        for copy in (qkv.clone(), qkv.clone())
    )

    any_operators.rope_kv_write(*together, positions_T, table_PR, style, caches[0], slots_T)
    any_operators.rope_(apart[0], apart[1], positions_T, table_PR, style)
    any_operators.kv_write(caches[1], apart[1], apart[2], slots_T)

    assert torch.equal(together[0], apart[0])
    assert torch.equal(caches[0].k, caches[1].k)
    assert torch.equal(caches[0].v, caches[1].v)


def test_large_writes_on_several_threads_equal_small_ones(cpu_operators):
    spec = AttentionSpec(8, 8, 64, 16, torch.bfloat16)
    caches = [cpu_operators.allocate_cache(spec, 32) for _ in range(2)]
    for cache in caches:
        cache.k.fill_(0.0)
        cache.v.fill_(0.0)
    k_TMH, v_TMH = torch.randn(2, 501, 8, 64).bfloat16()  # 501 tokens split a pair between threads
    slots_T = np.arange(501)

    cpu_operators.kv_write(caches[0], k_TMH, v_TMH, slots_T)
    for token in range(501):
        one = slice(token, token + 1)
        cpu_operators.kv_write(caches[1], k_TMH[one], v_TMH[one], slots_T[one])

    assert torch.equal(caches[0].k, caches[1].k)
    assert torch.equal(caches[0].v, caches[1].v)
