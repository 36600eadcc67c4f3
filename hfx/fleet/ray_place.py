"""What each replica reserves of a Ray cluster, and how it is started there: devices, CPUs."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import replace

from hfx.config import EngineConfig, FleetConfig

from .spec import ReplicaSpec

KINDS = {"cuda": "gpu", "npu": "npu"}


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
