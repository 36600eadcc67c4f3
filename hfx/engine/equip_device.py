"""An accelerator made ready for a model: the pool sized, every shape warmed up, steps recorded."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import cache

from hfx.config import CacheConfig, SchedulerConfig
from hfx.models import Decoder

from .accelerator import Accelerator
from .buckets import Buckets
from .compilations import COMPILATIONS
from .device_executor import DeviceExecutor
from .memory import PoolSize, device_pool_size, pool_size
from .warm_up import batch_of, prompts_of, warm_up

logger = logging.getLogger(__name__)

Progress = Callable[[str, float], None]


def sized(
    decoder: Decoder, cache: CacheConfig, limits: SchedulerConfig, max_model_len: int | None
) -> PoolSize:
    """The pool that fits beside the weights and the largest step, which is tried.

    Raises:
        ValueError: nothing fits.
    """
    accelerator = Accelerator.at(decoder.device)
    bytes_per_token = decoder.kv_bytes_per_token
    if accelerator.module is None:  # interpreted: the memory is the host's
        return pool_size(cache, bytes_per_token, accelerator.memory()[0])
    longest = max_model_len or decoder.spec.max_positions
    buckets = buckets_for(limits, longest, cache.block_size)
    step_bytes = accelerator.peak_bytes(
        lambda: run_largest(decoder, buckets, cache.block_size, longest, accelerator)
    )
    return device_pool_size(cache, bytes_per_token, accelerator.memory(), step_bytes)


def prepared(
    decoder: Decoder,
    size: PoolSize,
    limits: SchedulerConfig,
    max_model_len: int,
    progress: Progress | None,
) -> DeviceExecutor:
    """An executor whose every shape has been run and whose decode steps are recorded."""
    if decoder.operators.compiles:
        _listen()
    accelerator = Accelerator.at(decoder.device)
    executor = DeviceExecutor(
        decoder,
        size.blocks,
        size.block_tokens,
        buckets_for(limits, max_model_len, size.block_tokens),
        accelerator,
        accelerator.recorder(),
    )
    warm_up(executor, max_model_len, progress)
    logger.info(
        "warmed up: %d sizes of steps, %d decode steps recorded, %d compilations",
        len(executor.buckets.tokens),
        0 if executor.captured is None else len(executor.captured.buckets),
        COMPILATIONS.counts["start"],
    )
    return executor


def buckets_for(limits: SchedulerConfig, max_model_len: int, block_tokens: int) -> Buckets:
    """Shapes for every step that a scheduler within those limits may plan."""
    return Buckets.of(
        max_tokens=limits.max_num_batched_tokens,
        max_sequences=limits.max_num_seqs,
        context_tokens=max_model_len,
        page_tokens=block_tokens,
    )


def run_largest(
    decoder: Decoder,
    buckets: Buckets,
    block_tokens: int,
    max_model_len: int,
    accelerator: Accelerator,
) -> None:
    """Run the step that needs the most memory, on caches of one page, with all that is kept."""
    executor = DeviceExecutor(
        decoder, 0, block_tokens, buckets, accelerator, accelerator.recorder()
    )
    most = buckets.sequences[-1]
    if executor.captured is not None:
        executor.record(most)  # recordings keep memory of their own: the largest one's
    prompts = prompts_of(buckets.tokens[-1] - (most - 1), max_model_len, most)
    decodes = ((1, 0),) * (most - len(prompts))
    executor.execute(batch_of((*prompts, *decodes), executor.spare_page, buckets.columns))


@cache
def _listen() -> object:
    """Count compilations from now on, once a process."""
    from hfx.kernels.gpu.compiles import watch

    return watch(COMPILATIONS.hear)
