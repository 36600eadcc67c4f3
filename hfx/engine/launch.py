"""Builds one replica's engine from its configuration: model, pool, executor, policy."""

import logging
import os
from collections.abc import Callable
from pathlib import Path

import torch

from hfx.cache import BlockPool
from hfx.config import EngineConfig, SchedulerConfig
from hfx.models import LoadedModel, available_bytes, load
from hfx.scheduler import FirstComeFirstServed, StepPolicy

from .engine import Engine
from .executor import ModelExecutor
from .memory import model_len, pool_size

logger = logging.getLogger(__name__)

CPU_QUOTA = Path("/sys/fs/cgroup/cpu.max")  # microseconds of processor time, of so many


def build_engine(
    config: EngineConfig, progress: Callable[[str, float], None] | None = None
) -> tuple[Engine, LoadedModel]:
    """An engine that is ready to step, and the model in it; `progress` hears what takes time.

    Sets torch's number of threads, which is the process's.

    Raises:
        ValueError: a setting is impossible; the message says which and what to do.
    """
    torch.set_num_threads(config.threads or usable_cores())
    model = load(config.model, kernel_backend=config.kernel_backend, progress=progress)
    decoder = model.decoder
    size = pool_size(config.cache, decoder.kv_bytes_per_token, available_bytes())
    max_model_len = model_len(config.model.max_model_len, model.spec.max_positions, size)
    logger.info("key-value cache: %s; max_model_len %d", size, max_model_len)
    engine = Engine(
        ModelExecutor(decoder, size.blocks, size.block_tokens),
        policy_for(config.scheduler),
        BlockPool(
            size.blocks, size.block_tokens, prefix_caching=config.cache.enable_prefix_caching
        ),
        model.tokenizer.decode,
        vocabulary=model.spec.vocabulary,
        max_model_len=max_model_len,
        eos_token_ids=model.generation.eos_token_ids,
        seed=config.model.seed,
    )
    return engine, model


def policy_for(config: SchedulerConfig) -> StepPolicy:
    """The step policy that a configuration names."""
    return FirstComeFirstServed(
        max_step_tokens=config.max_num_batched_tokens, max_running=config.max_num_seqs
    )


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
