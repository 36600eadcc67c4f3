"""Cores and devices: shared out, none twice, and too few are an error that says the cure."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hfx.config import CacheConfig, EngineConfig
from hfx.fleet.placing import cores_of, devices_of, kind_of, place, sharing_memory


@given(st.integers(1, 20), st.integers(0, 64))
def test_every_core_has_one_owner_and_shares_differ_by_one_at_most(
    replicas: int, count: int
) -> None:
    cores = list(range(count))

    shares = [cores_of(n, replicas, cores) for n in range(replicas)]

    if count < replicas:
        assert not any(shares)
    else:
        assert sorted(core for share in shares for core in share) == cores
        assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_devices_are_those_that_are_visible() -> None:
    env = {"CUDA_VISIBLE_DEVICES": "4,5,6,GPU-7"}

    assert [devices_of(n, 2, "cuda", 2, env) for n in range(2)] == [("4", "5"), ("6", "GPU-7")]


def test_or_those_that_are_there(tmp_path: Path) -> None:
    for name in ("nvidia0", "nvidia1", "nvidiactl", "nvidia-uvm"):
        (tmp_path / name).touch()

    assert kind_of("auto", tmp_path) == "cuda"
    assert [devices_of(n, 2, "cuda", 1, {}, tmp_path) for n in range(2)] == [("0",), ("1",)]
    assert kind_of("auto", tmp_path / "none") is None
    assert kind_of("cpu", tmp_path) is None


def test_too_few_devices_name_the_cure() -> None:
    with pytest.raises(ValueError, match=r"3 replicas of 2 .* need 6, and 4 are visible"):
        devices_of(0, 3, "npu", 2, {"ASCEND_RT_VISIBLE_DEVICES": "0,1,2,3"})


def test_an_accelerators_replica_sees_its_own_devices_only() -> None:
    engine = EngineConfig(device="cuda", tensor_parallel_size=2)

    _, env = place(1, 2, engine, {"CUDA_VISIBLE_DEVICES": "0,1,2,3"})

    assert env == {"CUDA_VISIBLE_DEVICES": "2,3"}


def test_an_emulated_device_is_pinned_nowhere() -> None:
    assert place(0, 2, EngineConfig(device="emulated:h100-llama3.1-8b")) == ((), {})


def test_replicas_on_one_host_share_the_memory_that_one_would_have() -> None:
    engine = EngineConfig(cache=CacheConfig(memory_utilization=0.4))
    sized = EngineConfig(cache=CacheConfig(num_blocks_override=10))

    assert sharing_memory(engine, 4).cache.memory_utilization == pytest.approx(0.1)
    assert sharing_memory(EngineConfig(), 3).cache.memory_utilization == pytest.approx(0.1)
    assert sharing_memory(sized, 4) == sized
