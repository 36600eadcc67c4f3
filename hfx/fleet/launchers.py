"""Which launcher a configuration asks for, and how it wants replicas to be placed."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial

from hfx.config import EngineConfig, FleetConfig

from .launch import Launcher, LocalLauncher
from .spec import Specs


async def launcher_for(
    config: FleetConfig,
    engine: EngineConfig,
    progress: Callable[[str, float], None] | None = None,
) -> tuple[Launcher, Specs | None]:
    """The launcher; and what each replica gets, None where this host's devices are shared out.

    Raises:
        ValueError: it can't be used here, with the remedy.
    """
    if config.launcher != "ray":
        return LocalLauncher(), None
    from .ray_launch import RayLauncher
    from .ray_place import ray_placed

    if progress is not None:
        progress("joining the Ray cluster", 0.0)
    launcher = await asyncio.to_thread(RayLauncher.connect, config.ray_address, config.ray_port)
    specs = partial(ray_placed, config=config, engine=engine, cluster=launcher.cluster)
    return launcher, specs
