"""What each replica reserves of a Ray cluster, and how it is started there: devices, CPUs."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace

from hfx.config import EngineConfig, FleetConfig

from .spec import ReplicaSpec

KINDS = {"cuda": "gpu", "npu": "npu"}
NAMES = {"gpu": "GPU", "npu": "NPU", "cpu": "CPU"}  # of Ray


def ray_placed(
    replica_id: int, config: FleetConfig, engine: EngineConfig, cluster: Mapping[str, float]
) -> ReplicaSpec:
    """A replica of a fleet on a cluster that has so much of each resource.

    Ray makes its devices visible. One that computes on a CPU has as many threads as it reserves.

    Raises:
        ValueError: nobody says whether it wants GPUs or NPUs, and the cluster has both.
    """
    devices = config.replica_devices
    if devices:
        engine = replace(engine, device=devices[replica_id % len(devices)])
    if engine.emulated_profile is None and engine.device == "auto":
        engine = replace(engine, device=_device_of(cluster))
    kind = KINDS.get(engine.device)
    if kind is not None:
        resources = {kind: float(engine.tensor_parallel_size)}
    else:
        threads = engine.threads or engine.tensor_parallel_size
        resources = {"cpu": float(threads)}
        if engine.emulated_profile is None:
            engine = replace(engine, threads=threads)
    return ReplicaSpec(
        replica_id=replica_id,
        engine=engine,
        resources=resources,
        log_level=logging.getLevelName(max(logging.root.level, logging.WARNING)).lower(),
    )


def _device_of(cluster: Mapping[str, float]) -> str:
    found = [device for device, name in (("cuda", "GPU"), ("npu", "NPU")) if cluster.get(name)]
    if len(found) > 1:
        raise ValueError("the cluster has GPUs and NPUs: say which by --device cuda or npu")
    return found[0] if found else "cpu"


def bundle_of(resources: Mapping[str, float]) -> dict[str, float]:
    """What one replica reserves, in Ray's names; at least a core, for the process itself."""
    return {"CPU": 1.0} | {NAMES.get(name, name): amount for name, amount in resources.items()}


def lacking(bundle: Mapping[str, float], nodes: Sequence[Mapping[str, float]]) -> str:
    """What a replica waits for, of nodes that have so much each when nothing runs."""
    wanted = shown(bundle)
    if any(all(node.get(k, 0) >= n for k, n in bundle.items()) for node in nodes):
        return f"{wanted} that others use now on the {len(nodes)} nodes of the cluster"
    most = {kind: max((node.get(kind, 0) for node in nodes), default=0) for kind in bundle}
    return (
        f"a node with {wanted} to join the cluster: no node of {len(nodes)} has that "
        f"(most of each: {shown(most)})"
    )


def shown(amounts: Mapping[str, float]) -> str:
    """As `2 GPU, 1 CPU`."""
    return ", ".join(f"{amount:g} {kind}" for kind, amount in sorted(amounts.items())[::-1])
