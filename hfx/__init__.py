"""hfx: serve language models so that every request meets its own latency promise.

Public names load on first use (PEP 562), so that `import hfx` and the planning layers stay free of
torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hfx.config import EngineConfig, ModelConfig
    from hfx.engine import LLM
    from hfx.request import Objective, Request, Sampling

__version__ = "0.1.0"

_HOMES = {
    "LLM": "hfx.engine",
    "EngineConfig": "hfx.config",
    "ModelConfig": "hfx.config",
    "Objective": "hfx.request",
    "Request": "hfx.request",
    "Sampling": "hfx.request",
}

__all__ = ["LLM", "EngineConfig", "ModelConfig", "Objective", "Request", "Sampling", "__version__"]


def __getattr__(name: str) -> object:
    try:
        home = _HOMES[name]
    except KeyError:
        raise AttributeError(f"module 'hfx' has no attribute {name!r}") from None
    return getattr(import_module(home), name)


def __dir__() -> list[str]:
    return sorted(__all__)
