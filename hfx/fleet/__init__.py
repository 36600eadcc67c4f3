"""Many replicas, each a process with one engine, behind the interface of one.

Public names load on first use.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .fleet import Fleet as Fleet
    from .launch import Handle as Handle
    from .launch import Launcher as Launcher
    from .launch import LocalLauncher as LocalLauncher
    from .spec import ReplicaSpec as ReplicaSpec

_HOMES = {
    "Fleet": "fleet",
    "Handle": "launch",
    "Launcher": "launch",
    "LocalLauncher": "launch",
    "ReplicaSpec": "spec",
}

__all__ = sorted(_HOMES)


if not TYPE_CHECKING:

    def __getattr__(name: str) -> object:
        if name not in _HOMES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return getattr(import_module(f".{_HOMES[name]}", __name__), name)


def __dir__() -> list[str]:
    return sorted(_HOMES)
