"""What an engine works with, before there is one: the loaded model, its executor, its pool."""

import logging
import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import torch

from hfx.cache import BlockPool
from hfx.config import CacheConfig, EngineConfig, SchedulerConfig
from hfx.cost import Link
from hfx.models import ALONE, DTYPES, Decoder, Group, Membership, available_bytes, load

from .collectives import join, require
from .device_executor import DeviceExecutor
from .devices import device_for, of_rank
from .equip_device import prepared, sized
from .executor import ModelExecutor
from .lead_executor import LeadExecutor
from .memory import PoolSize, model_len, pool_size
from .ranks import Ranks

if TYPE_CHECKING:
    from hfx.models import LoadedModel

logger = logging.getLogger(__name__)

NPU_BLOCK_TOKENS = 128
Progress = Callable[[str, float], None]
CPU_QUOTA = Path("/sys/fs/cgroup/cpu.max")  # microseconds of processor time, of so many


@dataclass(frozen=True, slots=True)
class Equipment:
    """A model in memory with its caches, and the longest sequence it serves in tokens.

    `company` are the other ranks' processes, if there are some, and `link` is what adding up over
    all of them costs.
    """

    model: "LoadedModel"
    executor: ModelExecutor | DeviceExecutor | LeadExecutor
    pool: BlockPool
    max_model_len: int
    limits: SchedulerConfig
    company: Ranks | None = None
    link: Link | None = None


def equip(config: EngineConfig, progress: Progress | None = None) -> Equipment:
    """Load the model and size its cache; `progress` hears what takes time.

    Sets torch's number of threads, which is the process's. With `tensor_parallel_size` above 1,
    starts the processes of the other ranks, which end with this one's engine.

    Raises:
        ValueError: a setting is impossible; the message says which and what to do.
        EngineDead: another rank has failed.
    """
    if config.tensor_parallel_size == 1:
        return _equip(config, progress, None)
    ranks = Ranks(config)
    try:
        return _equip(config, progress, ranks)
    except BaseException:
        ranks.kill()
        raise


def _equip(config: EngineConfig, progress: Progress | None, ranks: Ranks | None) -> Equipment:
    settle_threads(config, rank=0)
    device = computing_on(config, rank=0)
    config = replace(config, cache=cache_for(device, config.cache))
    model = load(
        config.model,
        kernel_backend=config.kernel_backend,
        device=str(device),
        page_tokens=config.cache.block_size,
        member=ALONE if ranks is None else _first_of(ranks),
        progress=progress,
    )
    decoder = model.decoder
    if decoder.operators.name == "cpu":
        # They have threads of their own. What little is left to torch is not worth a region of
        # OpenMP's, which ends only when every thread has had a core.
        torch.set_num_threads(1)
    size = size_for(config, decoder)
    if ranks is not None:
        size = _agreed(size, ranks)
    max_model_len = model_len(config.model.max_model_len, model.spec.max_positions, size)
    logger.info("%s", described(decoder))
    logger.info("key-value cache: %s; max_model_len %d", size, max_model_len)
    prefixes = config.cache.enable_prefix_caching
    own = executor_for(config, decoder, size, max_model_len, progress)
    equipment = Equipment(
        model,
        own,
        BlockPool(size.blocks, size.block_tokens, prefix_caching=prefixes),
        max_model_len,
        config.scheduler,
    )
    if ranks is None:
        return equipment
    lead = LeadExecutor(own, ranks)
    link = lead.link(decoder)
    ranks.serve()
    return replace(equipment, executor=lead, company=ranks, link=link)


def _first_of(ranks: Ranks) -> Membership:
    """Rank 0's place, which it takes once all ranks have their weights."""

    def join_group(device: torch.device) -> Group:
        require(device)
        ranks.receive()
        meeting = TemporaryDirectory(prefix="hfx-ranks-")
        ranks.send(meeting.name.encode())
        try:
            group = join(device, meeting.name, rank=0, ranks=ranks.count)
        except RuntimeError as error:
            meeting.cleanup()
            raise ranks.explained(error) from error
        ranks.at_end(meeting.cleanup)  # a rank that lets go of the file must still find it
        if group.library != "gloo":  # which notices by itself that a rank has gone
            ranks.on_loss(lambda _: group.abort())
        return group

    return Membership(0, ranks.count, join_group)


def _agreed(size: PoolSize, ranks: Ranks) -> PoolSize:
    """The pool that every rank has room for."""
    least = min(size.blocks, *map(int, ranks.receive()))
    ranks.send(str(least).encode())
    return replace(size, blocks=least)


def settle_threads(config: EngineConfig, rank: int) -> None:
    """Give torch this rank's share of the cores."""
    threads, ranks = config.threads or usable_cores(), config.tensor_parallel_size
    torch.set_num_threads(max(1, threads // ranks + (rank < threads % ranks)))


def computing_on(config: EngineConfig, rank: int) -> torch.device:
    """The device of one rank, which becomes torch's current one.

    Raises:
        ValueError: it isn't there; the message says what to do.
    """
    first = device_for(
        config.device, kernel_backend=config.kernel_backend, dtype=DTYPES[config.model.dtype]
    )
    device = of_rank(first, rank, config.tensor_parallel_size)
    if device.type != "cpu":
        getattr(torch, device.type).set_device(device)
    return device


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


def size_for(config: EngineConfig, decoder: Decoder) -> PoolSize:
    """The pool that there is room for: on accelerators on this rank's, on a CPU for all ranks."""
    if _has_fixed_shapes(decoder):
        return sized(decoder, config.cache, config.scheduler, config.model.max_model_len)
    return pool_size(config.cache, decoder.total_kv_bytes_per_token, available_bytes())


def executor_for(
    config: EngineConfig,
    decoder: Decoder,
    size: PoolSize,
    max_model_len: int,
    progress: Progress | None,
) -> ModelExecutor | DeviceExecutor:
    """What computes this rank's part of steps, ready for all of them."""
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
