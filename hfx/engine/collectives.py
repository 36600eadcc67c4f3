"""Groups of ranks that compute one model together, over the library that fits their device.

Groups are their own: none of them is torch.distributed's default group, which belongs to whoever
imported us, except Huawei's, which torch makes in no other way.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed

from .shared_sums import SharedSums, share_memory

if TYPE_CHECKING:
    from torch._C._distributed_c10d import Store

dist: Any = torch.distributed  # whose types don't export what a build may lack
LIBRARIES = {"cpu": "gloo", "cuda": "nccl", "npu": "hccl"}  # on AMD's GPUs "nccl" is RCCL
LOOPBACK = "127.0.0.1"
STORE = "store"
MEETING_S = 60.0
HOST_TIMEOUT_S = 30.0  # between ranks on a CPU, which do the same work at the same time
DEVICE_TIMEOUT_S = 600.0  # elsewhere the first steps compile kernels, each rank at its own speed


def library_for(kind: str) -> str:
    """What torch.distributed calls the library that moves tensors of that type of device.

    Raises:
        ValueError: there is none for it.
    """
    if kind not in LIBRARIES:
        known = ", ".join(LIBRARIES)
        raise ValueError(f"device {kind!r} has no collective library: {known} have")
    return LIBRARIES[kind]


class Collectives:
    """One rank's place in a group; implements `hfx.models.Group`."""

    def __init__(self, library: str, group: Any, rank: int, ranks: int) -> None:
        self.library = library
        self.rank = rank
        self.ranks = ranks
        self._group = group

    def add_up(self, x: torch.Tensor) -> None:
        """See `Group.add_up`."""
        self._group.allreduce([x], dist.AllreduceOptions()).wait()

    def gather(self, x: torch.Tensor) -> Sequence[torch.Tensor]:
        """See `Group.gather`."""
        leads = self.rank == 0
        if self.library == "hccl":  # which has no gather
            parts = [torch.empty_like(x) for _ in range(self.ranks)]
            self._group.allgather([parts], [x]).wait()
            return parts if leads else ()
        parts = [torch.empty_like(x) for _ in range(self.ranks)] if leads else []
        self._group.gather([parts] if leads else [], [x], dist.GatherOptions()).wait()
        return parts

    def abort(self) -> None:
        """Let every call that waits for other ranks fail; from any thread."""
        self._group.abort()


def join(
    device: torch.device, meeting: str | Path, *, rank: int, ranks: int
) -> Collectives | SharedSums:
    """This process's place, once all ranks have joined. All ranks are on this machine.

    They find each other by a file in the folder `meeting`, which rank 0 has made for them and keeps
    while there are ranks. On a CPU they share memory where that is possible, as rank 0 finds, and
    talk over gloo if not.

    Raises:
        ValueError: the rank is out of range, or the device has no library.
        RuntimeError: this build of torch lacks the library, or the others didn't come in time.
    """
    if not 0 <= rank < ranks:
        raise ValueError(f"rank is {rank}: it must be from 0 to {ranks - 1}, one less than ranks")
    library = require(device)
    # No TCPStore: that would listen on every network of the machine.
    store: Store = dist.FileStore(str(Path(meeting) / STORE), ranks)
    store.set_timeout(timedelta(seconds=MEETING_S))
    group = _group(library, device, store, rank, ranks)
    group.add_up(torch.zeros(1, device=device))  # the others may still have something to look up
    return group


def _group(
    library: str, device: torch.device, store: Store, rank: int, ranks: int
) -> Collectives | SharedSums:
    if library == "gloo":
        shared = share_memory(store, rank, ranks, HOST_TIMEOUT_S)
        if shared is not None:
            return shared
    make = {"gloo": _gloo, "nccl": _nccl, "hccl": _hccl}[library]
    return Collectives(library, make(store, rank, ranks), rank, ranks)


def require(device: torch.device) -> str:
    """The library for the device, which this build of torch has.

    Raises:
        ValueError: there is none for it.
        RuntimeError: this build lacks it.
    """
    library = library_for(device.type)
    if not dist.is_available() or not dist.is_backend_available(library):
        raise RuntimeError(
            f"torch {torch.__version__} has no {library}: install a build of torch for "
            f"{device.type}"
        )
    return library


def _gloo(store: Store, rank: int, ranks: int) -> Any:
    options = dist.ProcessGroupGloo._Options()
    options._devices = [dist.ProcessGroupGloo.create_device(hostname=LOOPBACK)]
    options._timeout = timedelta(seconds=HOST_TIMEOUT_S)
    options._threads = 1
    return dist.ProcessGroupGloo(store, rank, ranks, options)


def _nccl(store: Store, rank: int, ranks: int) -> Any:
    options = dist.ProcessGroupNCCL.Options()
    options._timeout = timedelta(seconds=DEVICE_TIMEOUT_S)
    return dist.ProcessGroupNCCL(store, rank, ranks, options)


def _hccl(store: Store, rank: int, ranks: int) -> Any:
    dist.init_process_group(
        "hccl",
        store=store,
        rank=rank,
        world_size=ranks,
        timeout=timedelta(seconds=DEVICE_TIMEOUT_S),
    )
    return dist.group.WORLD
