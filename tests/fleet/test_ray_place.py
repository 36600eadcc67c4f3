"""What replicas reserve of a Ray cluster, and what is said without one; Ray is not needed here."""

import socket
import subprocess
import sys

import pytest

from hfx.config import EngineConfig, FleetConfig
from hfx.fleet import ray_launch
from hfx.fleet.ray_launch import RayLauncher
from hfx.fleet.ray_place import bundle_of, lacking, ray_placed

from .conftest import ROOT


@pytest.mark.parametrize(
    ("engine", "cluster", "bundle"),
    [
        (EngineConfig(device="auto"), {"CPU": 8}, {"CPU": 1}),
        (EngineConfig(device="auto", threads=4), {"CPU": 8}, {"CPU": 4}),
        (EngineConfig(device="auto"), {"CPU": 8, "GPU": 2}, {"CPU": 1, "GPU": 1}),
        (EngineConfig(device="auto"), {"CPU": 8, "NPU": 2}, {"CPU": 1, "NPU": 1}),
        (
            EngineConfig(device="cuda", tensor_parallel_size=2),
            {"CPU": 8, "GPU": 8, "NPU": 8},
            {"CPU": 1, "GPU": 2},
        ),
        (EngineConfig(device="cpu", tensor_parallel_size=2), {"CPU": 8, "GPU": 2}, {"CPU": 2}),
        (EngineConfig(device="emulated:h100-llama3.1-8b"), {"CPU": 8, "GPU": 2}, {"CPU": 1}),
    ],
)
def test_a_replica_reserves_what_it_computes_on(
    engine: EngineConfig, cluster: dict[str, float], bundle: dict[str, float]
) -> None:
    spec = ray_placed(0, FleetConfig(), engine, cluster)

    assert bundle_of(spec.resources) == bundle
    assert not spec.cores and not spec.env  # Ray's to say


def test_a_replica_on_a_cpu_has_as_many_threads_as_it_reserves() -> None:
    assert ray_placed(0, FleetConfig(), EngineConfig(device="cpu"), {}).engine.threads == 1


def test_a_cluster_of_gpus_and_npus_leaves_the_choice_to_its_user() -> None:
    with pytest.raises(ValueError, match="--device cuda or npu"):
        ray_placed(0, FleetConfig(), EngineConfig(), {"GPU": 1, "NPU": 1})


def test_replicas_of_different_devices_take_them_in_turn() -> None:
    config = FleetConfig(replica_devices=("cuda", "npu"))

    bundles = [bundle_of(ray_placed(n, config, EngineConfig(), {}).resources) for n in range(3)]

    assert bundles == [{"CPU": 1, "GPU": 1}, {"CPU": 1, "NPU": 1}, {"CPU": 1, "GPU": 1}]


def test_what_is_in_use_is_told_from_what_is_nowhere() -> None:
    nodes = [{"CPU": 4.0}, {"CPU": 8.0, "GPU": 2.0}]

    assert lacking({"CPU": 1, "GPU": 2}, nodes) == (
        "2 GPU, 1 CPU that others use now on the 2 nodes of the cluster"
    )
    assert lacking({"CPU": 1, "GPU": 4}, nodes) == (
        "a node with 4 GPU, 1 CPU to join the cluster: no node of 2 has that "
        "(most of each: 2 GPU, 8 CPU)"
    )


def test_without_ray_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray_launch, "find_spec", lambda name: None)

    with pytest.raises(ValueError, match=r"pip install 'hfx\[ray\]'"):
        RayLauncher.connect()


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray_launch, "find_spec", lambda name: object())


@pytest.mark.usefixtures("installed")
@pytest.mark.parametrize("address", ["", "here", "host:", ":6379", "ray://host:10001", "h:x"])
def test_an_address_that_is_none_is_an_error(address: str) -> None:
    with pytest.raises(ValueError, match="must be auto, none or HOST:PORT"):
        RayLauncher.connect(address)


@pytest.mark.usefixtures("installed")
def test_an_address_at_which_nothing_listens_is_an_error_that_says_how_to_start_a_cluster() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{taken.getsockname()[1]}"

        with pytest.raises(ValueError, match=rf"no Ray cluster was found at {address}.*ray start"):
            RayLauncher.connect(address)


def test_the_parents_side_imports_neither_ray_nor_torch() -> None:
    code = (
        "import sys, hfx.fleet.fleet, hfx.fleet.ray_launch, hfx.fleet.ray_place, "
        "hfx.fleet.ray_actor; print({'ray', 'torch'} & set(sys.modules))"
    )

    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )

    assert done.stdout.strip() == "set()"
