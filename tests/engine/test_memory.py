"""The size of the pool, and the longest sequence that it allows."""

import logging

import pytest

from hfx.config import CacheConfig
from hfx.engine.memory import PoolSize, model_len, pool_size

BYTES = 100  # of one token


def test_the_pool_is_a_fraction_of_the_available_memory() -> None:
    size = pool_size(CacheConfig(block_size=16, memory_utilization=0.5), BYTES, 16_100)

    assert (size.blocks, size.tokens, size.bytes) == (5, 80, 8_000)


def test_bytes_win_over_the_fraction_and_blocks_over_bytes() -> None:
    by_bytes = CacheConfig(block_size=16, kv_cache_memory_bytes=3_300)
    by_blocks = CacheConfig(block_size=16, kv_cache_memory_bytes=3_300, num_blocks_override=7)

    assert pool_size(by_bytes, BYTES, None).blocks == 2
    assert pool_size(by_blocks, BYTES, None).blocks == 7


def test_a_budget_below_one_block_is_refused_with_both_sizes() -> None:
    with pytest.raises(ValueError, match=r"1599 bytes .* 16 tokens \(1600 bytes\)"):
        pool_size(CacheConfig(block_size=16, kv_cache_memory_bytes=1_599), BYTES, None)


def test_unknown_memory_asks_for_a_setting() -> None:
    with pytest.raises(ValueError, match="set kv_cache_memory_bytes"):
        pool_size(CacheConfig(), BYTES, None)


def test_the_length_is_the_models_own_where_the_pool_holds_it() -> None:
    assert model_len(None, 64, PoolSize(4, 16, BYTES)) == 64


def test_a_length_nobody_asked_for_is_lowered_with_a_reason(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with caplog.at_level(logging.WARNING):
        assert model_len(None, 65, PoolSize(4, 16, BYTES)) == 64

    assert "lowered from the model's 65 tokens to 64" in caplog.text


def test_a_length_that_was_asked_for_is_kept_or_refused() -> None:
    pool = PoolSize(4, 16, BYTES)

    assert model_len(40, 100, pool) == 40
    with pytest.raises(ValueError, match=r"max_model_len is 65.*at least 8000 bytes"):
        model_len(65, 100, pool)
    with pytest.raises(ValueError, match="max_model_len is 101: it must be from 2 to 100"):
        model_len(101, 100, pool)


def test_a_pool_describes_itself_for_a_person() -> None:
    assert str(PoolSize(4, 16, 1 << 24)) == "4 blocks of 16 tokens: 64 tokens in 1.00 GiB"
