"""Fused operators for serving decoders: paged attention over ragged batches, and the small ones
around it.

`select` gives the operators of a back end, unchecked, for a model to hold; the functions here are
their checked twins. Names load on first use, so that importing the package costs nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .backend import Backend as Backend
    from .backend import backends as backends
    from .backend import select as select
    from .batch import AttentionSpec as AttentionSpec
    from .batch import KVCache as KVCache
    from .batch import RaggedBatch as RaggedBatch
    from .draws import Draws as Draws
    from .functional import attend as attend
    from .functional import kv_write as kv_write
    from .functional import linear as linear
    from .functional import rms_norm as rms_norm
    from .functional import rope_ as rope_
    from .functional import silu_mul as silu_mul
    from .operators import LinearWeights as LinearWeights
    from .operators import Operators as Operators
    from .operators import Room as Room
    from .operators import RopeStyle as RopeStyle
    from .plan import WorkList as WorkList
    from .rope import rope_table as rope_table
    from .rope_scaling import RopeScaling as RopeScaling

_HOME = {
    "AttentionSpec": "batch",
    "Backend": "backend",
    "Draws": "draws",
    "KVCache": "batch",
    "LinearWeights": "operators",
    "Operators": "operators",
    "RaggedBatch": "batch",
    "Room": "operators",
    "RopeScaling": "rope_scaling",
    "RopeStyle": "operators",
    "WorkList": "plan",
    "attend": "functional",
    "backends": "backend",
    "kv_write": "functional",
    "linear": "functional",
    "rms_norm": "functional",
    "rope_": "functional",
    "rope_table": "rope",
    "select": "backend",
    "silu_mul": "functional",
}

__all__ = sorted(_HOME)


if not TYPE_CHECKING:  # a type checker should see the names above, not "anything goes"

    def __getattr__(name: str) -> object:
        if name not in _HOME:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        value = getattr(import_module(f".{_HOME[name]}", __name__), name)
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    return sorted(set(globals()) | set(_HOME))
