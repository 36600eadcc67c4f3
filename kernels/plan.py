"""One step's attention as a list of tiles, planned once and shared by every layer of a spec."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .batch import AttentionSpec, Int32Array, RaggedBatch


@dataclass(frozen=True, slots=True, eq=False)
class WorkList:
    """The tiles of one step.

    A back end that works sequence by sequence reads `spec` and `batch` only and leaves both lists
    empty.
    """

    spec: AttentionSpec
    batch: RaggedBatch
    items: Int32Array
    reductions: Int32Array

    @classmethod
    def untiled(cls, spec: AttentionSpec, batch: RaggedBatch) -> WorkList:
        """The list of a back end that needs no tiles."""
        return cls(spec, batch, np.empty((0, 8), np.int32), np.empty((0, 4), np.int32))
