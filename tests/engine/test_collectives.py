"""Which library ranks talk over, and two real processes that do."""

import socket
import subprocess
import sys

import pytest
import torch
import torch.distributed as dist

from hfx.engine.collectives import join, library_for

RANK = """
import sys, torch, torch.distributed as dist
from hfx.engine.collectives import join
rank, address = int(sys.argv[1]), sys.argv[2]
group = join(torch.device("cpu"), rank=rank, ranks=2, address=address, timeout_s=60)
x = torch.tensor([10.0 ** rank, 1.0])
dist.all_reduce(x, group=group)
print(dist.get_backend(group), x.tolist())
dist.destroy_process_group()
"""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_each_kind_of_device_has_its_own_library() -> None:
    assert [library_for(kind) for kind in ("cpu", "cuda", "npu")] == ["gloo", "nccl", "hccl"]


def test_a_device_without_a_library_is_named() -> None:
    with pytest.raises(ValueError, match="device 'meta' has no collective library: cpu, cuda, npu"):
        library_for("meta")


def test_two_processes_add_up_over_gloo() -> None:
    address = f"tcp://127.0.0.1:{free_port()}"
    ranks = [
        subprocess.Popen(
            [sys.executable, "-c", RANK, str(rank), address],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]

    told = [rank.communicate(timeout=120) for rank in ranks]

    assert [out for out, _ in told] == ["gloo [11.0, 2.0]\n"] * 2, told


def test_a_rank_beyond_the_group_or_a_library_that_is_missing_is_refused() -> None:
    with pytest.raises(ValueError, match="rank is 2: it must be from 0 to 1"):
        join(torch.device("cpu"), rank=2, ranks=2, address="tcp://127.0.0.1:1")
    if not dist.is_nccl_available():
        with pytest.raises(RuntimeError, match="has no nccl: install a build of torch for cuda"):
            join(torch.device("cuda"), rank=0, ranks=1, address="tcp://127.0.0.1:1")
