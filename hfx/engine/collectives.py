"""Groups of ranks that compute one model together, over the library that fits their device."""

from __future__ import annotations

from datetime import timedelta

import torch
import torch.distributed as dist

LIBRARIES = {"cpu": "gloo", "cuda": "nccl", "npu": "hccl"}  # on AMD's GPUs "nccl" is RCCL


def library_for(kind: str) -> str:
    """What torch.distributed calls the library that moves tensors of that type of device.

    Raises:
        ValueError: there is none for it.
    """
    if kind not in LIBRARIES:
        known = ", ".join(LIBRARIES)
        raise ValueError(f"device {kind!r} has no collective library: {known} have")
    return LIBRARIES[kind]


def join(
    device: torch.device, *, rank: int, ranks: int, address: str, timeout_s: float = 60.0
) -> dist.ProcessGroup:
    """This process's group, once all its ranks have joined; `dist.destroy_process_group` leaves.

    `address` is where rank 0 listens, such as "tcp://10.0.0.1:29500".

    Raises:
        ValueError: the rank is out of range, or the device has no library.
        RuntimeError: this build of torch lacks the library, or the others didn't come in time.
    """
    if not 0 <= rank < ranks:
        raise ValueError(f"rank is {rank}: it must be from 0 to {ranks - 1}, one less than ranks")
    library = library_for(device.type)
    if not dist.is_available() or not dist.is_backend_available(library):
        raise RuntimeError(
            f"torch {torch.__version__} has no {library}: install a build of torch for "
            f"{device.type}"
        )
    dist.init_process_group(
        library,
        init_method=address,
        rank=rank,
        world_size=ranks,
        timeout=timedelta(seconds=timeout_s),
    )
    group = dist.group.WORLD
    assert group is not None
    return group
