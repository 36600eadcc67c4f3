"""One replica: what it computes next, the batch, the sampled tokens, the text.

Public names load on first use, so that the parts that need no torch import none.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .async_engine import AsyncEngine
    from .batch import Executor, Sampled, StepBatch, StepOutput
    from .delta import Delta, RequestTimes, TokenLogprob
    from .engine import Engine
    from .errors import EngineDead, EngineDraining, EngineError, EngineFull, Infeasible
    from .launch import build_engine
    from .llm import LLM, Completion
    from .observe import EngineStats, StepObserver, StepRecord
    from .stream import DeltaStream

_HOMES = {
    "LLM": "llm",
    "AsyncEngine": "async_engine",
    "Completion": "llm",
    "Delta": "delta",
    "DeltaStream": "stream",
    "Engine": "engine",
    "EngineDead": "errors",
    "EngineDraining": "errors",
    "EngineError": "errors",
    "EngineFull": "errors",
    "EngineStats": "observe",
    "Executor": "batch",
    "Infeasible": "errors",
    "RequestTimes": "delta",
    "Sampled": "batch",
    "StepBatch": "batch",
    "StepObserver": "observe",
    "StepOutput": "batch",
    "StepRecord": "observe",
    "TokenLogprob": "delta",
    "build_engine": "launch",
}

__all__ = [
    "LLM",
    "AsyncEngine",
    "Completion",
    "Delta",
    "DeltaStream",
    "Engine",
    "EngineDead",
    "EngineDraining",
    "EngineError",
    "EngineFull",
    "EngineStats",
    "Executor",
    "Infeasible",
    "RequestTimes",
    "Sampled",
    "StepBatch",
    "StepObserver",
    "StepOutput",
    "StepRecord",
    "TokenLogprob",
    "build_engine",
]


def __getattr__(name: str) -> object:
    try:
        home = _HOMES[name]
    except KeyError:
        raise AttributeError(f"module 'hfx.engine' has no attribute {name!r}") from None
    return getattr(import_module(f".{home}", __name__), name)


def __dir__() -> list[str]:
    return sorted(__all__)
