"""Sums over ranks through memory that they share, where all are on one CPU: no socket, no thread.

Every rank writes its numbers to a slot of its own, says so, waits for the others to have said so,
and adds up all slots in the order of ranks, so that all get the same bits. Slots are used in turns
of two: whoever has heard the others say that they write the next turn knows that they have read the
one before. That rests on stores becoming visible in order, as x86 promises and ARM does not.
"""

from __future__ import annotations

import logging
import mmap
import os
import platform
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch._C._distributed_c10d import Store

logger = logging.getLogger(__name__)

FOLDER = Path("/dev/shm")
ORDERED = ("x86_64", "AMD64")
SLOT_BYTES = 256 << 10  # written by one core and read by another: both slots fit in their L2
LINE_BYTES = 64  # a rank's word has a cache line of its own
SPINS = 400  # looks at a word, some 0.05 ms, before the core is offered to others
YIELDS = 4000
NAP_S = 2e-4  # then: whoever is late is not at work
KEY, READY = "shared memory", "opened"


class SharedSums:
    """One rank's place; implements `hfx.models.Group`."""

    library = "shared memory"

    def __init__(self, memory: mmap.mmap, rank: int, ranks: int, timeout_s: float) -> None:
        self.rank = rank
        self.ranks = ranks
        self._timeout_s = timeout_s
        self._turn = 0
        self._is_aborted = False
        self._words = memoryview(memory).cast("q")
        stride = LINE_BYTES // 8
        self._others = [other * stride for other in range(ranks) if other != rank]
        self._own = rank * stride
        whole = torch.frombuffer(memory, dtype=torch.uint8)
        slots = whole[ranks * LINE_BYTES :].view(2, ranks, SLOT_BYTES)
        self._slots = [[slots[turn, each] for each in range(ranks)] for turn in range(2)]

    def add_up(self, x: torch.Tensor) -> None:
        """See `Group.add_up`."""
        for part in self._parts(x):
            first, second, *rest = self._swap(part)
            torch.add(first, second, out=part)
            for other in rest:
                part.add_(other)

    def gather(self, x: torch.Tensor) -> Sequence[torch.Tensor]:
        """See `Group.gather`."""
        if self.rank:
            for part in self._parts(x):
                self._swap(part)
            return ()
        found = [torch.empty_like(x) for _ in range(self.ranks)]
        for parts in zip(self._parts(x), *map(self._parts, found), strict=True):
            for slot, part in zip(self._swap(parts[0]), parts[1:], strict=True):
                part.copy_(slot)
        return found

    def abort(self) -> None:
        """Let a call that waits for other ranks fail; from any thread."""
        self._is_aborted = True

    def _parts(self, x: torch.Tensor) -> Sequence[torch.Tensor]:
        numbers, most = x.view(-1), SLOT_BYTES // x.element_size()
        return [numbers[start : start + most] for start in range(0, len(numbers), most)]

    def _swap(self, part: torch.Tensor) -> list[torch.Tensor]:
        """Every rank's numbers, by rank; to be read before the next call."""
        size, dtype = part.numel() * part.element_size(), part.dtype
        slots = [slot[:size].view(dtype) for slot in self._slots[self._turn % 2]]
        slots[self.rank].copy_(part)
        self._turn += 1
        self._words[self._own] = self._turn
        for other in self._others:
            if self._words[other] < self._turn:
                self._wait(other)
        return slots

    def _wait(self, other: int) -> None:
        words, turn = self._words, self._turn
        for _ in range(SPINS):
            if words[other] >= turn:
                return
        for _ in range(YIELDS):
            if words[other] >= turn:
                return
            os.sched_yield()
        ends_s = time.monotonic() + self._timeout_s
        while words[other] < turn:
            if self._is_aborted:
                raise RuntimeError("a rank has gone")
            if time.monotonic() > ends_s:
                raise RuntimeError(
                    f"rank {other * 8 // LINE_BYTES} has not come within {self._timeout_s:g} s"
                )
            time.sleep(NAP_S)


def share_memory(store: Store, rank: int, ranks: int, timeout_s: float) -> SharedSums | None:
    """This process's place, once all ranks have joined; None at all ranks where it can't be.

    Raises:
        OSError: what rank 0 has made can't be opened.
        RuntimeError: the others didn't come in time.
    """
    size = ranks * (LINE_BYTES + 2 * SLOT_BYTES)
    made = None if rank else _make(size)
    if not rank:
        store.set(KEY, str(made or ""))
    path = store.get(KEY).decode()
    if not path:
        return None
    handle = os.open(path, os.O_RDWR)
    memory = mmap.mmap(handle, size)
    os.close(handle)
    store.set(f"{READY} {rank}", "")
    if made is not None:
        try:
            store.wait([f"{READY} {other}" for other in range(ranks)])
        finally:
            made.unlink()  # from here on it is gone with the last rank, however that ends
    return SharedSums(memory, rank, ranks, timeout_s)


def _make(size: int) -> Path | None:
    if platform.machine() not in ORDERED or not FOLDER.is_dir():
        return None
    handle, name = tempfile.mkstemp(prefix="hfx-", dir=FOLDER)
    try:
        os.posix_fallocate(handle, 0, size)
    except OSError as error:
        os.unlink(name)
        logger.warning("ranks talk over sockets: no %d bytes in %s: %s", size, FOLDER, error)
        return None
    finally:
        os.close(handle)
    return Path(name)
