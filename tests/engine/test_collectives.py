"""Which library ranks talk over, and two real processes that do."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from hfx.engine.collectives import join, library_for

RANK = """
import sys, torch
from hfx.engine import shared_sums
from hfx.engine.collectives import join

torch.set_num_threads(1)
rank, ranks = int(sys.argv[1]), int(sys.argv[2])
if sys.argv[3] == "gloo":
    shared_sums.ORDERED = ()  # as on other processors; rank 0 decides for all
group = join(torch.device("cpu"), sys.argv[4], rank=rank, ranks=ranks)
print(group.library)
for round in range(3):  # of several slots, of part of one, of a single number
    for size in (100_003, 70, 1):
        x = torch.arange(float(size)) * 3**rank + round
        group.add_up(x)
        assert torch.equal(x, torch.arange(float(size)) * sum(3**r for r in range(ranks))
            + ranks * round), (rank, size, x)
        parts = group.gather(torch.full((size, 2), float(rank), dtype=torch.bfloat16))
        assert [part.unique().tolist() for part in parts] == ([] if rank else [
            [float(r)] for r in range(ranks)]), (rank, size)
half = torch.tensor([1 / 3 + rank], dtype=torch.bfloat16)
group.add_up(half)
print(half.item())
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


@pytest.mark.parametrize(("library", "ranks"), [("gloo", "2"), ("shared memory", "3")])
def test_processes_add_up_and_gather_at_the_first(library: str, ranks: str, tmp_path: Path) -> None:
    started = [start(str(rank), ranks, library, str(tmp_path)) for rank in range(int(ranks))]

    told = [rank.communicate(timeout=120) for rank in started]

    outputs = {out for out, _ in told}
    assert len(outputs) == 1, told  # the same bits on all
    assert outputs.pop().startswith(library), told


def test_a_rank_beyond_the_group_or_a_library_that_is_missing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="rank is 2: it must be from 0 to 1"):
        join(torch.device("cpu"), tmp_path, rank=2, ranks=2)
    if not dist.is_nccl_available():
        with pytest.raises(RuntimeError, match="has no nccl: install a build of torch for cuda"):
            join(torch.device("cuda"), tmp_path, rank=0, ranks=1)
