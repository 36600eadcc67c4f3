"""Rank 0's executor: tells the other ranks each step, and computes its own part of it. Seconds."""

from __future__ import annotations

import time
import weakref
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from hfx.cost import Link

from .accelerator import Accelerator
from .batch import StepBatch, StepOutput
from .device_executor import DeviceExecutor
from .executor import ModelExecutor
from .rank_messages import Command, Fill, Time, encode
from .ranks import Ranks

if TYPE_CHECKING:
    from hfx.models import Decoder

SMALL_ROWS, LARGE_ROWS = 1, 256  # of the sums that are timed
REPEATS = 12


class LeadExecutor:
    """Implements `Executor` over all ranks. Whatever fails in one of them ends them all."""

    def __init__(self, executor: ModelExecutor | DeviceExecutor, ranks: Ranks) -> None:
        self._executor = executor
        self._ranks = ranks
        weakref.finalize(self, ranks.close)

    def execute(self, batch: StepBatch) -> StepOutput:
        """See `Executor.execute`.

        Raises:
            EngineDead: a rank has failed, now or before.
        """
        self._ranks.send(encode(batch))
        try:
            return self._executor.execute(batch)
        except BaseException as error:  # also an interrupt: the others are in the middle of a step
            dead = self._ranks.explained(error)
            if isinstance(error, Exception):
                raise dead from error
            raise

    def fill(self, blocks: Sequence[int]) -> None:
        """See `ModelExecutor.fill`; in all ranks."""
        self._ranks.send(encode(Fill(tuple(blocks))))
        self._executor.fill(blocks)

    def link(self, decoder: Decoder) -> Link:
        """What a sum over the ranks costs: a delay, and a rate in bytes of the model's type.

        Raises:
            EngineDead: a rank has failed.
        """
        width, itemsize = decoder.spec.width, decoder.dtype.itemsize
        small_s = self._sum_s(decoder, SMALL_ROWS * width)
        large_s = self._sum_s(decoder, LARGE_ROWS * width)
        ranks = decoder.shard.ranks
        moved = 2 * (ranks - 1) / ranks * (LARGE_ROWS - SMALL_ROWS) * width * itemsize
        return Link(moved / max(large_s - small_s, 1e-3 * large_s), small_s)

    def _sum_s(self, decoder: Decoder, numbers: int) -> float:
        """The median of several."""
        command = Time(numbers, REPEATS)
        self._ranks.send(encode(command))
        try:
            return sorted(sums(decoder, command))[REPEATS // 2]
        except Exception as error:
            raise self._ranks.explained(error) from error


@torch.inference_mode()
def sums(decoder: Decoder, wanted: Time) -> list[float]:
    """Add up numbers over all ranks and look how long it takes, which all must do at once."""
    assert decoder.group is not None
    accelerator = Accelerator.at(decoder.device)
    x = torch.zeros(wanted.numbers, dtype=decoder.sum_dtype, device=decoder.device)
    times_s = []
    for _ in range(wanted.repeats):
        begun_s = time.perf_counter()
        decoder.group.add_up(x)
        accelerator.synchronize()
        times_s.append(time.perf_counter() - begun_s)
    return times_s


def obey(command: Command, executor: ModelExecutor | DeviceExecutor, decoder: Decoder) -> None:
    """What the other ranks do when they are told."""
    if isinstance(command, Fill):
        executor.fill(command.blocks)
    elif isinstance(command, Time):
        sums(decoder, command)
    else:
        executor.execute(command)
