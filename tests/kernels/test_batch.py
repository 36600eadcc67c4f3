"""Shapes that contradict each other are refused with what is wrong; the derived facts are right."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from hfx.kernels import AttentionSpec, KVCache, RaggedBatch, select


def test_positions_and_slots_follow_the_table():
    batch = RaggedBatch(
        query_starts=np.array([0, 3, 4]),
        context_lens_S=np.array([18, 1]),
        table_SC=np.array([[7, 2], [5, 0]]),
        page_tokens=16,
    )

    assert batch.positions_T.tolist() == [15, 16, 17, 0]
    assert batch.slots_T.tolist() == [7 * 16 + 15, 2 * 16, 2 * 16 + 1, 5 * 16]
    assert batch.slots_T.dtype == np.int64
    assert batch.tokens == 4


def test_pairs_leave_out_sequences_that_compute_nothing():
    batch = RaggedBatch(np.array([0, 2, 2, 3]), np.array([2, 9, 6]), np.zeros((3, 1)), 16)

    assert batch.pairs == [(2, 0), (1, 5)]


def test_an_empty_batch_is_fine():
    batch = RaggedBatch(np.array([0]), np.array([]), np.empty((0, 1)), 16)

    assert batch.tokens == 0
    assert batch.pairs == []


@pytest.mark.parametrize(
    ("starts", "contexts", "table", "message"),
    [
        ([1, 2], [2], [[0]], "query_starts"),
        ([0, 2], [2, 2], [[0]], "context_lens_S has shape"),
        ([0, 2], [2], [[0], [1]], "table_SC has shape"),
        ([0, 2], [1], [[0]], "query lengths"),
        ([0, 2, 1], [2, 2], [[0], [1]], "query lengths"),
        ([0, 1], [17], [[0]], "holds 16 tokens"),
    ],
)
def test_lengths_that_contradict_each_other_are_refused(starts, contexts, table, message):
    with pytest.raises(ValueError, match=message):
        RaggedBatch(np.array(starts), np.array(contexts), np.array(table), 16)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"query_heads": 7}, "multiple of kv_heads"),
        ({"kv_heads": 0}, "kv_heads is 0"),
        ({"head_size": 0}, "head_size is 0"),
        ({"page_tokens": 48}, "page_tokens is 48"),
        ({"window": -1}, "window is -1"),
        ({"window": 2**31}, "window is 2147483648"),
        ({"dtype": torch.int8}, "dtype is torch.int8"),
        ({"softcap": -1.0}, "softcap is -1.0"),
        ({"cache_dtype": torch.float16}, "cache_dtype is torch.float16"),
        ({"cache_dtype": torch.int8, "cache_scaling": "page"}, "cache_scaling is 'page'"),
        ({"query_heads": 8.0}, "query_heads is 8.0: it must be an integer"),
        ({"window": 1.5}, "window is 1.5: it must be an integer"),
        ({"dtype": "bfloat16"}, "dtype is 'bfloat16': it must be a floating-point torch.dtype"),
        ({"scale": float("nan")}, "scale is nan: it must be None or finite"),
    ],
)
def test_impossible_shapes_are_refused(change, message):
    sizes = dict(query_heads=8, kv_heads=2, head_size=64, page_tokens=16, dtype=torch.bfloat16)

    with pytest.raises(ValueError, match=message):
        AttentionSpec(**(sizes | change))


def test_bytes_per_page_is_what_a_cache_takes(any_operators):
    spec = AttentionSpec(9, 3, 64, 32, torch.bfloat16)
    cache = any_operators.allocate_cache(spec, 5)

    assert cache.pages == 5
    assert KVCache.bytes_per_page(spec) == 2 * 32 * 3 * 64 * 2
    if any_operators.name != "reference":  # which keeps float64 whatever the spec says
        assert cache.k.nbytes + cache.v.nbytes == 5 * KVCache.bytes_per_page(spec)


def test_bytes_per_page_count_the_scales():
    sizes = dict(query_heads=9, kv_heads=3, head_size=64, page_tokens=32, dtype=torch.bfloat16)
    by_token = AttentionSpec(**sizes, cache_dtype=torch.int8)
    by_tensor = AttentionSpec(**sizes, cache_dtype=torch.int8, cache_scaling="tensor")
    cache = select("torch").allocate_cache(by_token, 5)

    stored = cache.k.nbytes + cache.v.nbytes + cache.k_scale.nbytes + cache.v_scale.nbytes
    assert stored == 5 * KVCache.bytes_per_page(by_token)
    assert KVCache.bytes_per_page(by_tensor) == 2 * 32 * 3 * 64


def test_what_no_int32_holds_is_refused():
    with pytest.raises(ValueError, match="context_lens_S is float64 with fractions"):
        RaggedBatch([0, 1], [1.5], [[0]], 16)
    with pytest.raises(ValueError, match="table_SC goes up to 4294967296"):
        RaggedBatch([0, 1], [1], [[2**32]], 16)
    with pytest.raises(ValueError, match="context_lens_S goes up to -9223372036854775808"):
        RaggedBatch([0, 1], [-(2**63)], [[0]], 16)
    with pytest.raises(ValueError, match="query_starts is <U1: integers are needed"):
        RaggedBatch(["0", "1"], [1], [[0]], 16)


@pytest.mark.parametrize("page_tokens", [0, 17, 16.0])
def test_pages_of_another_size_are_refused(page_tokens):
    with pytest.raises(ValueError, match=rf"page_tokens is {page_tokens}: it must be one of \(16,"):
        RaggedBatch([0, 1], [1], [[0]], page_tokens)


@pytest.mark.parametrize("pages", [-1, 1.5, "3"])
def test_a_cache_of_no_such_size_is_refused(cpu_operators, pages):
    spec = AttentionSpec(4, 2, 64, 16, torch.float32)

    with pytest.raises(ValueError, match=f"pages is {pages!r}: it must be an integer"):
        cpu_operators.allocate_cache(spec, pages)


def test_a_plan_of_another_page_size_or_split_is_refused(cpu_operators):
    spec, batch = AttentionSpec(4, 2, 64, 16, torch.float32), RaggedBatch([0, 1], [1], [[0]], 32)

    with pytest.raises(ValueError, match="the batch has pages of 32 tokens, the spec of 16"):
        cpu_operators.plan(spec, batch)
    with pytest.raises(ValueError, match=r"split_tokens is 16\.0: it must be an integer"):
        cpu_operators.plan(spec, RaggedBatch([0, 1], [1], [[0]], 16), split_tokens=16.0)
