"""Which library ranks talk over, and two real processes that do."""

import subprocess
import sys

import pytest
import torch
import torch.distributed as dist

from hfx.engine.collectives import join, library_for

RANK = """
import sys, torch
from hfx.engine.collectives import call, join, listen
rank = int(sys.argv[1])
store = call(int(sys.argv[2])) if rank else listen(torch.device("cpu"))
if not rank:
    print(store.port, flush=True)
group = join(torch.device("cpu"), store, rank=rank, ranks=2)
x = torch.tensor([10.0 ** rank, 1.0])
group.add_up(x)
parts = group.gather(torch.full((1, 2), float(rank), dtype=torch.bfloat16))
print(group.library, x.tolist(), [part.tolist() for part in parts])
"""


def start(*arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", RANK, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_each_kind_of_device_has_its_own_library() -> None:
    assert [library_for(kind) for kind in ("cpu", "cuda", "npu")] == ["gloo", "nccl", "hccl"]


def test_a_device_without_a_library_is_named() -> None:
    with pytest.raises(ValueError, match="device 'meta' has no collective library: cpu, cuda, npu"):
        library_for("meta")


def test_two_processes_add_up_and_gather_over_gloo() -> None:
    first = start("0")
    assert first.stdout is not None
    second = start("1", first.stdout.readline().strip())

    told = [rank.communicate(timeout=120) for rank in (first, second)]

    assert told[0][0] == "gloo [11.0, 2.0] [[[0.0, 0.0]], [[1.0, 1.0]]]\n", told
    assert told[1][0] == "gloo [11.0, 2.0] []\n", told


def test_a_rank_beyond_the_group_or_a_library_that_is_missing_is_refused() -> None:
    with pytest.raises(ValueError, match="rank is 2: it must be from 0 to 1"):
        join(torch.device("cpu"), dist.HashStore(), rank=2, ranks=2)
    if not dist.is_nccl_available():
        with pytest.raises(RuntimeError, match="has no nccl: install a build of torch for cuda"):
            join(torch.device("cuda"), dist.HashStore(), rank=0, ranks=1)
