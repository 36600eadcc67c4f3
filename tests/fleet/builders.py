"""Engines that misbehave, built in a replica's process as a `ReplicaSpec.builder` names them."""

import os
import signal
import time
from pathlib import Path
from typing import Any

from hfx.config import EngineConfig
from hfx.engine.batch import Executor, StepBatch, StepOutput
from hfx.engine.engine import Engine
from hfx.engine.launch import Progress, build_engine

POISON = 7  # a token id: who computes it dies


class Wrapped:
    """An executor behind another one."""

    def __init__(self, inner: Executor) -> None:
        self.inner = inner

    def execute(self, batch: StepBatch) -> StepOutput:
        self.before(batch)
        return self.inner.execute(batch)

    def before(self, batch: StepBatch) -> None:
        """What happens before a step."""


class Mortal(Wrapped):
    def before(self, batch: StepBatch) -> None:
        if POISON in batch.token_ids_T:
            os.kill(os.getpid(), signal.SIGKILL)


class Slow(Wrapped):
    """Takes ten times as long."""

    def execute(self, batch: StepBatch) -> StepOutput:
        started_s = time.monotonic()
        output = self.inner.execute(batch)
        time.sleep(9 * (time.monotonic() - started_s))
        return output


class OutOfMemory(Wrapped):
    """Has no memory for any step while the file is there that the environment names."""

    def before(self, batch: StepBatch) -> None:
        if Path(os.environ["HFX_TEST_FILE"]).exists():
            raise MemoryError("no memory for a step")


class Stuck(Wrapped):
    """A step that does not end, while the file is there."""

    def before(self, batch: StepBatch) -> None:
        while Path(os.environ["HFX_TEST_FILE"]).exists():
            time.sleep(0.05)


def _with(
    wrap: type[Wrapped], config: EngineConfig, progress: Progress | None
) -> tuple[Engine, Any]:
    engine, words = build_engine(config, progress)
    if os.environ.get("HFX_TEST_WRAPS", "1") == "1":
        engine._executor = wrap(engine._executor)
    return engine, words


def mortal(config: EngineConfig, progress: Progress | None = None) -> tuple[Engine, Any]:
    return _with(Mortal, config, progress)


def slow(config: EngineConfig, progress: Progress | None = None) -> tuple[Engine, Any]:
    return _with(Slow, config, progress)


def out_of_memory(config: EngineConfig, progress: Progress | None = None) -> tuple[Engine, Any]:
    return _with(OutOfMemory, config, progress)


def stuck(config: EngineConfig, progress: Progress | None = None) -> tuple[Engine, Any]:
    return _with(Stuck, config, progress)


def crashing(config: EngineConfig, progress: Progress | None = None) -> tuple[Engine, Any]:
    os._exit(9)


def impossible(config: EngineConfig, progress: Progress | None = None) -> tuple[Engine, Any]:
    raise ValueError("threads is 0: it must be at least 1")
