"""How large the key-value pool is, and how long a sequence it lets a model serve.

Sizes are bytes, blocks of `block_size` tokens, and tokens.
"""

import logging
from dataclasses import dataclass

from hfx.config import GIB, CacheConfig

logger = logging.getLogger(__name__)

HOST_SHARE, DEVICE_SHARE = 0.3, 0.9  # where no memory_utilization is given
SLACK_BYTES = 256 << 20  # what torch's allocator doesn't see: kernels, libraries, recordings


@dataclass(frozen=True, slots=True)
class PoolSize:
    """A pool of `blocks` blocks of `block_tokens` tokens, of `bytes_per_token` each."""

    blocks: int
    block_tokens: int
    bytes_per_token: int

    @property
    def tokens(self) -> int:
        """What it holds."""
        return self.blocks * self.block_tokens

    @property
    def bytes(self) -> int:
        """What it occupies once every block has been used."""
        return self.tokens * self.bytes_per_token

    def __str__(self) -> str:
        return (
            f"{self.blocks} blocks of {self.block_tokens} tokens: {self.tokens} tokens in "
            f"{self.bytes / GIB:.2f} GiB"
        )


def pool_size(config: CacheConfig, bytes_per_token: int, available_bytes: int | None) -> PoolSize:
    """The pool that a configuration asks for on a CPU, of the memory that the weights have left.

    Raises:
        ValueError: not one block fits, or the system doesn't say what is available.
    """
    budget = config.kv_cache_memory_bytes
    if budget is None and config.num_blocks_override is None:
        if available_bytes is None:
            raise ValueError(
                "this system doesn't say how much memory is available: set kv_cache_memory_bytes"
            )
        budget = int(available_bytes * (config.memory_utilization or HOST_SHARE))
    return _pool(config, bytes_per_token, budget)


def device_pool_size(
    config: CacheConfig, bytes_per_token: int, memory: tuple[int, int], step_bytes: int
) -> PoolSize:
    """The pool that a configuration asks for on an accelerator, beside weights and steps.

    `memory` is its (free, all) with the weights loaded, `step_bytes` what the largest step needs.
    One block more is allocated than the pool has: padding is written there.

    Raises:
        ValueError: not one block fits.
    """
    budget = config.kv_cache_memory_bytes
    if budget is None and config.num_blocks_override is None:
        free, total = memory
        share = config.memory_utilization or DEVICE_SHARE
        taken = total - free
        budget = int(total * share) - taken - step_bytes - SLACK_BYTES
        if budget < 2 * config.block_size * bytes_per_token:
            raise ValueError(
                f"memory_utilization {share} of {total / GIB:.2f} GiB leaves no room for a "
                f"key-value cache: {taken / GIB:.2f} GiB are taken (weights and other processes), "
                f"a step needs {step_bytes / GIB:.2f} GiB; raise memory_utilization, lower "
                "max_num_batched_tokens, or take a smaller model"
            )
        budget -= config.block_size * bytes_per_token
    return _pool(config, bytes_per_token, budget)


def _pool(config: CacheConfig, bytes_per_token: int, budget: int | None) -> PoolSize:
    if config.num_blocks_override is not None:
        return PoolSize(config.num_blocks_override, config.block_size, bytes_per_token)
    assert budget is not None
    block_bytes = config.block_size * bytes_per_token
    if budget < block_bytes:
        raise ValueError(
            f"{budget} bytes for the key-value cache hold no block of {config.block_size} tokens "
            f"({block_bytes} bytes): raise kv_cache_memory_bytes or memory_utilization"
        )
    return PoolSize(budget // block_bytes, config.block_size, bytes_per_token)


def model_len(asked: int | None, trained: int, pool: PoolSize) -> int:
    """Most tokens of prompt and output that one sequence may have.

    Unless it was asked for, it is what the model was trained for, lowered, with a logged reason,
    to what the pool can hold.

    Raises:
        ValueError: what was asked for is impossible.
    """
    if asked is None:
        if trained > pool.tokens:
            logger.warning(
                "max_model_len is lowered from the model's %d tokens to %d: the key-value cache "
                "(%s) holds no more; raise kv_cache_memory_bytes or memory_utilization",
                trained,
                pool.tokens,
                pool,
            )
        return min(trained, pool.tokens)
    if not 2 <= asked <= trained:
        raise ValueError(
            f"max_model_len is {asked}: it must be from 2 to {trained}, the model's own context"
        )
    if asked > pool.tokens:
        needed = -(-asked // pool.block_tokens) * pool.block_tokens * pool.bytes_per_token
        raise ValueError(
            f"max_model_len is {asked}, and the key-value cache holds {pool}: lower the first, or "
            f"give the cache at least {needed} bytes (kv_cache_memory_bytes)"
        )
    return asked
