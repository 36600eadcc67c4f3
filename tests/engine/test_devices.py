"""Which device is taken, what is said where it is missing, and how its memory is shared out."""

from __future__ import annotations

import logging
from types import SimpleNamespace

import pytest
import torch

from hfx.config import CacheConfig, EngineConfig
from hfx.engine import devices
from hfx.engine.accelerator import Accelerator
from hfx.engine.compilations import Compilations
from hfx.engine.devices import absence, device_for, of_rank
from hfx.engine.equip import cache_for, equip
from hfx.engine.memory import SLACK_BYTES, device_pool_size
from hfx.engine.record import EagerReplays

CPU = torch.device("cpu")
GIB = 1 << 30
no_gpu = pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")


@no_gpu
def test_without_an_accelerator_auto_is_the_cpu() -> None:
    assert device_for("auto") == device_for("cpu") == CPU


@no_gpu
@pytest.mark.parametrize(
    ("name", "looked_for", "cure"),
    [
        ("cuda", f"torch {torch.__version__}", "hfx[gpu]"),
        ("npu", "needs torch_npu 2.13.0 and CANN", "hfx[npu]"),
    ],
)
def test_a_device_that_is_missing_is_named_with_what_to_install(
    name: str, looked_for: str, cure: str
) -> None:
    with pytest.raises(ValueError) as error:
        equip(EngineConfig(device=name))  # type: ignore[arg-type]

    message = str(error.value)
    assert message.startswith(f"device '{name}' can't be used: ")
    assert looked_for in message and cure in message


def test_a_gpu_that_the_driver_hides_is_told_from_a_build_without_gpus(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.version, "cuda", "13.0")

    why = absence("cuda")

    assert why is not None and "built for CUDA 13.0, finds no GPU" in why and "nvidia-smi" in why


def test_there_are_no_other_devices() -> None:
    with pytest.raises(ValueError, match="device is 'tpu': it must be auto, cpu, cuda or npu"):
        device_for("tpu")


def test_auto_passes_over_a_gpu_that_no_kernels_run_on_and_says_so(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def select(name: str | None, **asked: object) -> None:
        if name == "cpu":
            raise RuntimeError(f"kernel back end cpu cannot run on {asked['device']}")

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(devices, "select", select)

    assert device_for("auto", kernel_backend="cpu") == CPU
    assert "device 'cuda' is there and not used: kernel back end cpu" in caplog.text
    assert device_for("auto") == torch.device("cuda", 0)


def test_a_start_says_what_computes(caplog: pytest.LogCaptureFixture) -> None:
    threads = torch.get_num_threads()
    with caplog.at_level(logging.INFO):
        equip(EngineConfig(device="cpu", threads=1))
    torch.set_num_threads(threads)

    [line] = [r.message for r in caplog.records if r.message.startswith("device ")]
    assert line.startswith("device cpu, kernels 'cpu' (avx")
    assert line.endswith(", 1 thread), bfloat16")


def test_the_pool_gets_what_weights_and_the_largest_step_leave_of_the_share() -> None:
    config = CacheConfig(block_size=16, memory_utilization=0.5)
    block = 16 * 1000

    size = device_pool_size(config, 1000, (70 * GIB, 80 * GIB), 3 * GIB)

    left = 40 * GIB - 10 * GIB - 3 * GIB - SLACK_BYTES
    assert size.blocks == left // block - 1  # one is spare, for padding
    usual = device_pool_size(CacheConfig(block_size=16), 1000, (70 * GIB, 80 * GIB), 3 * GIB)
    assert usual.blocks == (int(80 * GIB * 0.9) - 13 * GIB - SLACK_BYTES) // block - 1


def test_an_npu_gets_pages_that_its_attention_takes() -> None:
    npu = SimpleNamespace(type="npu")

    assert cache_for(npu, CacheConfig()).block_size == 128  # type: ignore[arg-type]
    assert cache_for(CPU, CacheConfig()).block_size == 64


def test_a_device_without_room_beside_the_weights_is_told_what_takes_it() -> None:
    config = CacheConfig(memory_utilization=0.2)

    with pytest.raises(ValueError) as error:
        device_pool_size(config, 1000, (60 * GIB, 80 * GIB), 1 * GIB)

    assert "0.2 of 80.00 GiB" in str(error.value)
    assert "20.00 GiB are taken" in str(error.value) and "needs 1.00 GiB" in str(error.value)


def test_bytes_and_blocks_win_over_a_devices_share() -> None:
    tight = (1, 80 * GIB)

    by_bytes = CacheConfig(block_size=16, kv_cache_memory_bytes=40_000)
    by_blocks = CacheConfig(block_size=16, num_blocks_override=7)

    assert device_pool_size(by_bytes, 1000, tight, 0).blocks == 2
    assert device_pool_size(by_blocks, 1000, tight, 0).blocks == 7


class StandInModule:
    """Stands in for torch.cuda: memory that its allocator holds, of which some is in use."""

    def __init__(self) -> None:
        self.used, self.held, self.peak = 100, 150, 900

    def synchronize(self, device: object) -> None: ...

    def take(self, size: int) -> None:
        self.used += size
        self.held = max(self.held, self.used)
        self.peak = max(self.peak, self.held)

    def reset_peak_memory_stats(self, device: object) -> None:
        self.peak = self.held

    def memory_reserved(self, device: object) -> int:
        return self.held

    def max_memory_reserved(self, device: object) -> int:
        return self.peak

    def empty_cache(self) -> None:
        self.held = self.used

    def mem_get_info(self, device: object) -> tuple[int, int]:
        return 30, 40


def test_a_peak_is_all_that_a_run_holds_beyond_what_was_in_use_before() -> None:
    module = StandInModule()

    def run() -> None:
        module.take(250)
        module.used -= 250  # not in use any longer, and held until the cache is emptied

    assert Accelerator(CPU, module).peak_bytes(run) == 250
    assert module.held == module.used == 100
    assert Accelerator(CPU, module).memory() == (30, 40)


def test_what_records_steps_depends_on_the_device() -> None:
    graph = SimpleNamespace(CUDAGraph=object, NPUGraph=None)

    assert isinstance(Accelerator.at(CPU).recorder(), EagerReplays)
    assert Accelerator(CPU, SimpleNamespace()).recorder() is None
    assert Accelerator(CPU, graph).recorder() is not None


def test_compilations_are_told_apart_by_when_they_happen(caplog: pytest.LogCaptureFixture) -> None:
    compilations = Compilations()

    with compilations.starting():
        compilations.hear("a")
    compilations.hear("kernel b")

    assert compilations.counts == {"start": 1, "serving": 1}
    assert [record.message for record in caplog.records] == [
        "compiled while serving, please report: kernel b"
    ]


def test_each_rank_has_a_device_of_its_own_and_all_share_one_cpu(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    gpu = torch.device("cuda", 0)

    assert [of_rank(gpu, rank, 2) for rank in range(2)] == [gpu, torch.device("cuda", 1)]
    assert of_rank(torch.device("cpu"), 3, 4) == torch.device("cpu")
    with pytest.raises(
        ValueError,
        match=r"tensor_parallel_size is 3, and 2 cuda devices are visible: .* at most 2",
    ):
        of_rank(gpu, 0, 3)
