"""Which cores and devices each replica of this host gets: shared out, none given twice."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from hfx.config import EngineConfig, FleetConfig

from .spec import ReplicaSpec

CPU_SHARE = 0.3  # of the free memory: what `CacheConfig` gives the cache of a single engine
VISIBLE = {"cuda": "CUDA_VISIBLE_DEVICES", "npu": "ASCEND_RT_VISIBLE_DEVICES"}
_PATTERNS = {"cuda": "nvidia[0-9]*", "npu": "davinci[0-9]*"}


def usable_cores() -> list[int]:
    """The cores that this process may run on; empty where the system does not tell."""
    return sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []


def cores_of(replica: int, replicas: int, cores: Sequence[int]) -> tuple[int, ...]:
    """A replica's own cores, next to each other; empty (all) where there are fewer than replicas.

    Every core belongs to one replica, and nobody has two more than another.
    """
    if len(cores) < replicas:
        return ()
    return tuple(cores[replica * len(cores) // replicas : (replica + 1) * len(cores) // replicas])


def kind_of(device: str, root: Path = Path("/dev")) -> str | None:
    """`cuda` or `npu` where a configuration's device is one of those, else None."""
    if device in VISIBLE:
        return device
    if device != "auto":
        return None
    return next((kind for kind in VISIBLE if _present(kind, root)), None)


def devices_of(
    replica: int,
    replicas: int,
    kind: str,
    each: int,
    env: Mapping[str, str],
    root: Path = Path("/dev"),
) -> tuple[str, ...]:
    """The names of a replica's own devices, `each` of them.

    They are those that `env` makes visible, or else all that are there.

    Raises:
        ValueError: there are not enough for all replicas.
    """
    listed = env.get(VISIBLE[kind])
    if listed is not None:
        names = [name.strip() for name in listed.split(",") if name.strip()]
    else:
        names = [str(n) for n in range(len(_present(kind, root)))]
    if replicas * each > len(names):
        raise ValueError(
            f"{replicas} replicas of {each} {kind} device(s) need {replicas * each}, and "
            f"{len(names)} are visible: give fewer --replicas, or make more visible "
            f"({VISIBLE[kind]})"
        )
    return tuple(names[replica * each : (replica + 1) * each])


def place(
    replica: int, replicas: int, engine: EngineConfig, env: Mapping[str, str] | None = None
) -> tuple[tuple[int, ...], dict[str, str]]:
    """A replica's cores and what its environment gets.

    An emulated device computes nothing, so that any core does.

    Raises:
        ValueError: see `devices_of`.
    """
    if engine.emulated_profile is not None:
        return (), {}
    kind = kind_of(engine.device)
    cores = cores_of(replica, replicas, usable_cores())
    if kind is None:
        return cores, {}
    mine = devices_of(
        replica, replicas, kind, engine.tensor_parallel_size, os.environ if env is None else env
    )
    return cores, {VISIBLE[kind]: ",".join(mine)}


def placed(
    replica_id: int, replicas: int, config: FleetConfig, engine: EngineConfig
) -> ReplicaSpec:
    """How a replica of a fleet on this host is started: its device, cores and share of memory.

    Raises:
        ValueError: there are not enough devices.
    """
    devices = config.replica_devices
    if devices:
        engine = replace(engine, device=devices[replica_id % len(devices)])
    replicas = max(replicas, replica_id + 1)
    cores, env = place(replica_id, replicas, engine)
    if engine.threads is None and cores:
        engine = replace(engine, threads=len(cores))
    return ReplicaSpec(
        replica_id=replica_id,
        engine=engine if env else sharing_memory(engine, replicas),
        cores=cores,
        env=env,
        resources=resources(engine),
        log_level=logging.getLevelName(max(logging.root.level, logging.WARNING)).lower(),
    )


def has_room(replicas: int, config: FleetConfig, engine: EngineConfig) -> bool:
    """Whether one replica more than there are can run for a while without taking from them.

    A core and its memory are shared out to all of them; a cluster may make one wait for long.
    """
    if config.replica_devices:
        devices = config.replica_devices
        engine = replace(engine, device=devices[replicas % len(devices)])
    if config.launcher == "ray":
        return False
    if engine.emulated_profile is not None:
        return True
    if kind_of(engine.device) is None:
        return False
    try:
        place(replicas, replicas + 1, engine)
    except ValueError:
        return False
    return True


def resources(engine: EngineConfig) -> dict[str, float]:
    """What one replica takes, for launchers that place by that: GPUs or NPUs, else cores."""
    kind = None if engine.emulated_profile is not None else kind_of(engine.device)
    if kind is None:
        return {"cpu": float(engine.threads or 1)}
    return {"gpu" if kind == "cuda" else kind: float(engine.tensor_parallel_size)}


def sharing_memory(engine: EngineConfig, replicas: int) -> EngineConfig:
    """The same, its cache a share of the memory that all replicas on this host have in common."""
    cache = engine.cache
    has_size = cache.kv_cache_memory_bytes is not None or cache.num_blocks_override is not None
    if engine.emulated_profile is not None or has_size:
        return engine
    share = (cache.memory_utilization or CPU_SHARE) / replicas
    return replace(engine, cache=replace(cache, memory_utilization=share))


def _present(kind: str, root: Path) -> list[Path]:
    return sorted(root.glob(_PATTERNS[kind]))
