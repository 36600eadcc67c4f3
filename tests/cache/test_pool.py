"""The block pool: what is free, what is found again, what is evicted first."""

import pytest

from hfx.cache import BlockPool, Hit, Holding

NAMES = [bytes([i]) * 16 for i in range(16)]


def held(pool: BlockPool, blocks: int, first_name: int | None = None) -> Holding:
    """A holding of fresh blocks, kept under successive names if one is given."""
    holding = Holding()
    pool.grow(holding, blocks)
    if first_name is not None:
        for index in range(blocks):
            pool.keep(holding, index, NAMES[first_name + index])
    return holding


def test_an_impossible_pool_is_refused_with_its_sizes() -> None:
    with pytest.raises(ValueError, match="0 blocks of 4 tokens"):
        BlockPool(0, 4)


def test_released_blocks_without_a_prefix_are_free() -> None:
    pool = BlockPool(4, 4)
    holding = held(pool, 3)

    pool.release(holding)

    assert (pool.available, pool.idle) == (4, 0)
    pool.check()


def test_a_kept_prefix_is_found_after_its_holder_has_left() -> None:
    pool = BlockPool(4, 4)
    holding = held(pool, 2, first_name=0)
    blocks = tuple(holding.blocks)

    pool.release(holding)

    assert pool.lookup(NAMES[:2], known_tokens=9) == Hit(blocks, idle=2)
    assert pool.available == 4


def test_a_hit_leaves_at_least_one_token_to_compute() -> None:
    pool = BlockPool(4, 4)
    pool.release(held(pool, 2, first_name=0))

    lengths = [len(pool.lookup(NAMES[:2], known).blocks) for known in (1, 4, 5, 8, 9)]

    assert lengths == [0, 0, 1, 1, 2]


def test_a_hit_ends_at_the_first_block_that_is_not_cached() -> None:
    pool = BlockPool(4, 4)
    pool.release(held(pool, 2, first_name=0))

    hit = pool.lookup([NAMES[0], NAMES[5], NAMES[1]], known_tokens=40)

    assert len(hit.blocks) == 1


def test_taking_a_hit_shares_the_blocks_of_a_running_sequence() -> None:
    pool = BlockPool(4, 4)
    first, second = held(pool, 3, first_name=0), Holding()

    pool.take(second, pool.lookup(NAMES[:2], known_tokens=9))

    assert second.blocks == first.blocks[:2]
    assert (first.shared, second.shared, pool.available) == (2, 2, 1)
    pool.check()


def test_a_shared_block_stays_held_until_its_last_holder_leaves() -> None:
    pool = BlockPool(4, 4)
    first, second, third = held(pool, 1, first_name=0), Holding(), Holding()
    for holding in (second, third):
        pool.take(holding, pool.lookup(NAMES[:1], known_tokens=9))

    pool.release(first)
    assert (second.shared, third.shared, pool.available) == (1, 1, 3)
    pool.release(third)
    assert (second.shared, pool.available) == (0, 3)
    pool.release(second)
    assert pool.available == 4


def test_the_prefix_left_longest_ago_is_evicted_first_and_its_end_before_its_beginning() -> None:
    pool = BlockPool(4, 4)
    old, new = held(pool, 2, first_name=0), held(pool, 2, first_name=8)
    pool.release(old)
    pool.release(new)

    pool.grow(Holding(), 1)
    assert len(pool.lookup(NAMES[:2], known_tokens=9).blocks) == 1
    pool.grow(Holding(), 1)
    assert pool.lookup(NAMES[:2], known_tokens=9) == Hit()
    assert len(pool.lookup(NAMES[8:10], known_tokens=9).blocks) == 2
    pool.check()


def test_free_blocks_are_used_before_a_prefix_is_evicted() -> None:
    pool = BlockPool(4, 4)
    pool.release(held(pool, 2, first_name=0))

    pool.grow(Holding(), 2)

    assert pool.idle == 2


def test_the_first_block_of_a_name_stays_the_one_that_is_found() -> None:
    pool = BlockPool(4, 4)
    first, twin = held(pool, 1, first_name=0), held(pool, 1, first_name=0)

    assert pool.lookup(NAMES[:1], known_tokens=9).blocks == tuple(first.blocks)
    pool.release(twin)
    assert (pool.available, pool.idle) == (3, 0)


def test_a_forgotten_prefix_is_found_no_more_and_its_blocks_become_free() -> None:
    pool = BlockPool(4, 4)
    holding = held(pool, 2, first_name=0)

    pool.forget(holding)
    pool.release(holding)

    assert pool.lookup(NAMES[:2], known_tokens=9) == Hit()
    assert (pool.available, pool.idle) == (4, 0)


def test_clearing_prefixes_keeps_what_is_held() -> None:
    pool = BlockPool(4, 4)
    running = held(pool, 1, first_name=0)
    pool.release(held(pool, 2, first_name=8))

    pool.clear_prefixes()

    assert (pool.available, pool.idle, len(running.blocks)) == (3, 0, 1)
    assert pool.lookup(NAMES[:1], known_tokens=9) == Hit()
    pool.check()


def test_without_prefix_caching_nothing_is_found() -> None:
    pool = BlockPool(4, 4, prefix_caching=False)
    pool.release(held(pool, 2, first_name=0))

    assert pool.lookup(NAMES[:2], known_tokens=9) == Hit()
    assert pool.idle == 0


def test_more_than_is_available_is_an_error_of_the_caller() -> None:
    pool = BlockPool(4, 4)
    holding = held(pool, 3)

    with pytest.raises(AssertionError, match="2 blocks wanted, 1 available"):
        pool.grow(holding, 2)
    pool.check()
