"""What attention is asked for: its fixed shape, one step's ragged batch, one layer's paged cache.

Dimensions: T new tokens of the step, S sequences, C pages in a table row, N query heads, M
key-value heads, H head size. Tokens are packed end to end; a page holds `page_tokens` slots of
every head.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import torch

PAGE_TOKENS = (16, 32, 64, 128)

Int32Array = npt.NDArray[np.int32]
Int64Array = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class AttentionSpec:
    """The part of attention that no step changes.

    Query head n reads key-value head n // (query_heads / kv_heads). `window` is how many of the
    last keys a query sees, itself included (0: all). `scale` None is 1 / sqrt(head_size).

    Raises:
        ValueError: a size is out of range, or the query heads are no multiple of the others.
    """

    query_heads: int
    kv_heads: int
    head_size: int
    page_tokens: int
    dtype: torch.dtype
    window: int = 0
    scale: float | None = None

    def __post_init__(self) -> None:
        for name in ("query_heads", "kv_heads", "head_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}: it must be at least 1")
        if self.query_heads % self.kv_heads:
            raise ValueError(
                f"query_heads is {self.query_heads}: it must be a multiple of kv_heads "
                f"({self.kv_heads})"
            )
        if self.page_tokens not in PAGE_TOKENS:
            raise ValueError(f"page_tokens is {self.page_tokens}: it must be one of {PAGE_TOKENS}")
        if self.window < 0:
            raise ValueError(f"window is {self.window}: it must be 0 (none) or more")
        if not self.dtype.is_floating_point:
            raise ValueError(f"dtype is {self.dtype}: it must be a floating-point type")

    @property
    def group(self) -> int:
        """Query heads that share one key-value head."""
        return self.query_heads // self.kv_heads

    @property
    def score_scale(self) -> float:
        """What query-key products are multiplied by."""
        return 1.0 / math.sqrt(self.head_size) if self.scale is None else self.scale


@dataclass(frozen=True, slots=True, eq=False)
class RaggedBatch:
    """One step's new tokens and where each sequence's keys live; all of it host memory.

    Sequence s owns the new tokens `query_starts[s]:query_starts[s + 1]`, which are the last of its
    `context_lens_S[s]` cached tokens once the step is done. Row s of `table_SC` names its pages in
    order; entries behind its last page are never read.

    Raises:
        ValueError: the lengths contradict each other, or a table row is too short.
    """

    query_starts: Int32Array
    context_lens_S: Int32Array
    table_SC: Int32Array
    page_tokens: int
    positions_T: Int32Array = field(init=False, repr=False)
    slots_T: Int64Array = field(init=False, repr=False)

    def __post_init__(self) -> None:
        for name in ("query_starts", "context_lens_S", "table_SC"):
            value = np.ascontiguousarray(getattr(self, name), dtype=np.int32)
            object.__setattr__(self, name, value)
        self._check()
        query_lens_S = self.query_lens_S
        first_S = self.context_lens_S - query_lens_S - self.query_starts[:-1]
        tokens = int(self.query_starts[-1])
        positions_T = np.arange(tokens, dtype=np.int32) + np.repeat(first_S, query_lens_S)
        sequence_T = np.repeat(np.arange(len(query_lens_S)), query_lens_S)
        page_T, offset_T = np.divmod(positions_T, self.page_tokens)
        slots_T = self.table_SC[sequence_T, page_T].astype(np.int64) * self.page_tokens + offset_T
        object.__setattr__(self, "positions_T", positions_T)
        object.__setattr__(self, "slots_T", slots_T)

    def _check(self) -> None:
        if self.query_starts.ndim != 1 or not len(self.query_starts) or self.query_starts[0] != 0:
            raise ValueError(f"query_starts is {self.query_starts}: it must be [S + 1] from 0 on")
        sequences = len(self.query_starts) - 1
        if self.context_lens_S.shape != (sequences,):
            raise ValueError(
                f"context_lens_S has shape {self.context_lens_S.shape}: query_starts says "
                f"{sequences} sequences"
            )
        if self.table_SC.ndim != 2 or len(self.table_SC) != sequences:
            raise ValueError(
                f"table_SC has shape {self.table_SC.shape}: ({sequences}, C) is needed"
            )
        if not sequences:
            return
        query_lens_S = self.query_lens_S
        if query_lens_S.min() < 0 or (self.context_lens_S < query_lens_S).any():
            raise ValueError(
                f"query lengths {query_lens_S} must lie between 0 and the context lengths "
                f"{self.context_lens_S}, which include them"
            )
        slots = self.table_SC.shape[1] * self.page_tokens
        if self.context_lens_S.max() > slots:
            raise ValueError(
                f"context_lens_S goes up to {self.context_lens_S.max()}: a table row of "
                f"{self.table_SC.shape[1]} pages of {self.page_tokens} holds {slots} tokens"
            )

    @property
    def query_lens_S(self) -> Int32Array:
        """New tokens of each sequence."""
        return np.diff(self.query_starts)

    @property
    def tokens(self) -> int:
        """T, the step's new tokens."""
        return int(self.query_starts[-1])

    @property
    def pairs(self) -> list[tuple[int, int]]:
        """(query tokens, cached tokens before them) of every sequence that computes any."""
        query_lens_S = self.query_lens_S
        cached_S = self.context_lens_S - query_lens_S
        some_S = query_lens_S > 0
        return list(zip(query_lens_S[some_S].tolist(), cached_S[some_S].tolist(), strict=True))


@dataclass(frozen=True, slots=True, eq=False)
class KVCache:
    """One layer's keys and values in the layout of the back end that allocated them.

    Dimension 0 of both tensors is the page, so whole pages can be copied without knowing the rest.
    """

    backend: str
    spec: AttentionSpec
    k: torch.Tensor
    v: torch.Tensor

    @property
    def pages(self) -> int:
        """How many pages there are."""
        return self.k.shape[0]

    @staticmethod
    def bytes_per_page(spec: AttentionSpec) -> int:
        """Bytes of one page's keys and values in one layer."""
        return 2 * spec.page_tokens * spec.kv_heads * spec.head_size * spec.dtype.itemsize
