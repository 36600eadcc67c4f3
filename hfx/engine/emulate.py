"""What an engine works with on a device that isn't there: a profile's speed and a model's words.

No weights, no torch. Tokens, bytes.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, replace

from hfx.cache import BlockPool
from hfx.config import CacheConfig, EngineConfig
from hfx.cost import StepCost, named
from hfx.models import Tokenizer, Words, load_words

from .emulated import EmulatedExecutor
from .live_cost import LiveCost, Origin, quality

logger = logging.getLogger(__name__)

KV_TOKENS = 500_000  # beside an 8B model on 96 GB; `python -m hfx.simulate` assumes the same
CONTEXT_TOKENS = 131_072  # the longest sequence where nothing is asked for: Llama 3.1's
OUTPUT_TOKENS = 256  # where a request doesn't say: nothing else would end an answer
SAID = (
    " This answer was made up: the device that serves it is emulated, and only the time that it "
    "takes is that of the real one. No model has read the question."
)


@dataclass(frozen=True, slots=True)
class Emulation:
    """What stands for a loaded model, its executor and its pool."""

    model: Words
    executor: EmulatedExecutor
    pool: BlockPool
    max_model_len: int
    company: None = None


def emulate(
    config: EngineConfig, progress: Callable[[str, float], None] | None = None
) -> tuple[Emulation, LiveCost | None]:
    """A device as its profile describes it, and the prices that are asked for.

    Raises:
        ValueError: a setting is impossible, or asks something of hardware; the message says which.
    """
    assert config.emulated_profile is not None
    _check(config)
    if progress is not None:
        progress("reading headers", 0.0)
    profile = named(config.emulated_profile)
    if progress is not None:
        progress("building the tokenizer", 0.0)
    words = load_words(config.model)
    blocks = _blocks(config.cache, profile)
    pool = BlockPool(
        blocks, config.cache.block_size, prefix_caching=config.cache.enable_prefix_caching
    )
    executor = EmulatedExecutor(profile, said(words.tokenizer))
    length = _length(config.model.max_model_len, blocks * config.cache.block_size)
    logger.info(
        "EMULATED device %s (%s on %s), no model is computed; %d key-value tokens, "
        "max_model_len %d",
        config.emulated_profile,
        profile.key.model,
        profile.key.device,
        blocks * config.cache.block_size,
        length,
    )
    return Emulation(bounded(words), executor, pool, length), _prices(config, profile)


def said(tokenizer: Tokenizer) -> tuple[int, ...]:
    """The tokens of every answer: plain words that say what they are.

    Raises:
        ValueError: the tokenizer has none for them.
    """
    tokens = tuple(tokenizer.encode(SAID, add_special_tokens=False))
    if not tokens:
        raise ValueError("the model's tokenizer makes no tokens of plain words")
    return tokens


def _check(config: EngineConfig) -> None:
    for name, value in (
        ("memory_utilization", config.cache.memory_utilization),
        ("kernel_backend", config.kernel_backend),
    ):
        if value is not None:
            raise ValueError(
                f"{name} is {value}, and an emulated device has neither memory nor kernels: leave "
                "it out (num_blocks_override and kv_cache_memory_bytes size the cache)"
            )
    if config.tensor_parallel_size > 1:
        raise ValueError(
            f"tensor_parallel_size is {config.tensor_parallel_size}: an emulated device is as fast "
            "as its profile says; leave it out, and take a profile of so many devices"
        )
    if config.cost.cost_profile == "calibrate":
        raise ValueError(
            "cost_profile is calibrate: an emulated device is as fast as its profile says, so "
            "there is nothing to measure; give auto, off, or another profile's name or path"
        )


def _blocks(cache: CacheConfig, profile: StepCost) -> int:
    if cache.num_blocks_override is not None:
        return cache.num_blocks_override
    if cache.kv_cache_memory_bytes is None:
        return KV_TOKENS // cache.block_size
    if not profile.kv_bytes_per_token:
        raise ValueError(
            "kv_cache_memory_bytes can't be turned into blocks: the profile doesn't say how large "
            "a token's keys and values are; give num_blocks_override"
        )
    block_bytes = profile.kv_bytes_per_token * cache.block_size
    if cache.kv_cache_memory_bytes < block_bytes:
        raise ValueError(
            f"kv_cache_memory_bytes is {cache.kv_cache_memory_bytes}: a block of "
            f"{cache.block_size} tokens takes {block_bytes} on this profile's device"
        )
    return cache.kv_cache_memory_bytes // block_bytes


def _length(asked: int | None, tokens: int) -> int:
    if asked is None:
        return min(CONTEXT_TOKENS, tokens)
    if not 2 <= asked <= tokens:
        raise ValueError(
            f"max_model_len is {asked}: it must be from 2 to {tokens}, the tokens that the "
            "key-value cache holds; num_blocks_override makes it larger"
        )
    return asked


def bounded(words: Words) -> Words:
    """The words of an emulated device, whose answers end although nothing ends them."""
    generation = words.generation
    limit = generation.max_new_tokens or OUTPUT_TOKENS
    return replace(words, generation=replace(generation, max_new_tokens=limit))


def _prices(config: EngineConfig, profile: StepCost) -> LiveCost | None:
    choice = config.cost.cost_profile
    if choice == "off":
        return None
    name = config.emulated_profile if choice == "auto" else choice
    model = profile if choice == "auto" else named(choice)
    text = f"{name}, of {model.key.model} on {model.key.device}, emulated: {quality(model)}"
    return LiveCost(model, Origin("emulated", text))
