"""What an engine works with, before there is one: the loaded model, its executor, its pool."""

import logging
import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from hfx.cache import BlockPool
from hfx.config import CacheConfig, EngineConfig, SchedulerConfig
from hfx.models import DTYPES, Decoder, available_bytes, load

from .device_executor import DeviceExecutor
from .devices import device_for
from .equip_device import prepared, sized
from .executor import ModelExecutor
from .memory import PoolSize, model_len, pool_size

if TYPE_CHECKING:
    from hfx.models import LoadedModel

logger = logging.getLogger(__name__)

NPU_BLOCK_TOKENS = 128
CPU_QUOTA = Path("/sys/fs/cgroup/cpu.max")  # microseconds of processor time, of so many


@dataclass(frozen=True, slots=True)
class Equipment:
    """A model in memory with its caches, and the longest sequence it serves in tokens."""

    model: "LoadedModel"
    executor: ModelExecutor | DeviceExecutor
    pool: BlockPool
    max_model_len: int
    limits: SchedulerConfig


def equip(config: EngineConfig, progress: Callable[[str, float], None] | None = None) -> Equipment:
    """Load the model and size its cache; `progress` hears what takes time.

    Sets torch's number of threads, which is the process's.

    Raises:
        ValueError: a setting is impossible; the message says which and what to do.
    """
    torch.set_num_threads(config.threads or usable_cores())
    device = device_for(
        config.device, kernel_backend=config.kernel_backend, dtype=DTYPES[config.model.dtype]
    )
    config = replace(config, cache=cache_for(device, config.cache))
    model = load(
        config.model,
        kernel_backend=config.kernel_backend,
        device=str(device),
        page_tokens=config.cache.block_size,
        progress=progress,
    )
    decoder = model.decoder
    if decoder.operators.name == "cpu":
        # They have threads of their own. What little is left to torch is not worth a region of
        # OpenMP's, which ends only when every thread has had a core.
        torch.set_num_threads(1)
    size = _pool_size(config, decoder)
    max_model_len = model_len(config.model.max_model_len, model.spec.max_positions, size)
    logger.info("%s", described(decoder))
    logger.info("key-value cache: %s; max_model_len %d", size, max_model_len)
    prefixes = config.cache.enable_prefix_caching
    return Equipment(
        model,
        _executor(config, decoder, size, max_model_len, progress),
        BlockPool(size.blocks, size.block_tokens, prefix_caching=prefixes),
        max_model_len,
        config.scheduler,
    )


def cache_for(device: torch.device, cache: CacheConfig) -> CacheConfig:
    """The cache's configuration with blocks that the device's own attention takes."""
    if device.type != "npu" or cache.block_size >= NPU_BLOCK_TOKENS:
        return cache
    logger.warning(
        "block_size is raised from %d to %d: Ascend's attention takes no smaller pages",
        cache.block_size,
        NPU_BLOCK_TOKENS,
    )
    return replace(cache, block_size=NPU_BLOCK_TOKENS)


def described(decoder: Decoder) -> str:
    """What computes, in one line: the device, the kernels, what of the device they use."""
    operators = decoder.operators
    detail = f" ({operators.detail})" if operators.detail else ""
    dtype = str(decoder.dtype).removeprefix("torch.")
    return f"device {decoder.device}, kernels {operators.name!r}{detail}, {dtype}"


def _has_fixed_shapes(decoder: Decoder) -> bool:
    """Whether steps take prepared shapes only: on accelerators, and wherever kernels compile."""
    return decoder.device.type != "cpu" or decoder.operators.compiles


def _pool_size(config: EngineConfig, decoder: Decoder) -> PoolSize:
    if _has_fixed_shapes(decoder):
        return sized(decoder, config.cache, config.scheduler, config.model.max_model_len)
    return pool_size(config.cache, decoder.kv_bytes_per_token, available_bytes())


def _executor(
    config: EngineConfig,
    decoder: Decoder,
    size: PoolSize,
    max_model_len: int,
    progress: Callable[[str, float], None] | None,
) -> ModelExecutor | DeviceExecutor:
    if _has_fixed_shapes(decoder):
        return prepared(decoder, size, config.scheduler, max_model_len, progress)
    return ModelExecutor(decoder, size.blocks, size.block_tokens)


def usable_cores(quota: Path = CPU_QUOTA) -> int:
    """Processor cores that this process may keep busy: its affinity, cut by its cgroup's quota."""
    if hasattr(os, "sched_getaffinity"):
        cores = len(os.sched_getaffinity(0))
    else:
        cores = os.cpu_count() or 1
    try:
        allowed, period = quota.read_text().split()
    except OSError:
        return cores  # no cgroup of version 2
    return cores if allowed == "max" else max(1, min(cores, int(allowed) // int(period)))
