"""What attention is asked for: its fixed shape, one step's ragged batch, one layer's paged cache.

Dimensions: T rows of the step (new tokens, and padding behind them), S sequences, C pages in a
table row, N query heads, M key-value heads, H head size. Tokens are packed end to end; a page holds
`page_tokens` slots of every head.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch

PAGE_TOKENS = (16, 32, 64, 128, 256)
QUANTISED = (torch.int8, torch.float8_e4m3fn)  # types that a cache stores with scales beside them
SCALE_BYTES = 4  # a scale is a float32

INT32_MAX = np.iinfo(np.int32).max

CacheScaling = Literal["token", "tensor"]

Int32Array = npt.NDArray[np.int32]
Int64Array = npt.NDArray[np.int64]

NO_SLOTS: Int64Array = np.empty(0, np.int64)


@dataclass(frozen=True, slots=True)
class AttentionSpec:
    """The part of attention that no step changes.

    Query head n reads key-value head n // (query_heads / kv_heads). `window` is how many of the
    last keys a query sees, itself included (0: all). `scale` None is 1 / sqrt(head_size). A score x
    becomes softcap * tanh(x / softcap) where `softcap` isn't 0. With `sinks`, `attend` is given a
    logit per query head that joins the softmax and has no value.

    The cache stores `cache_dtype` (None: `dtype`). One of `QUANTISED` has scales, float32, by which
    stored numbers are multiplied: one per token and head, found when it's written, or one for the
    whole "tensor", which the owner of the cache sets (1 until then).

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
    softcap: float = 0.0
    sinks: bool = False
    cache_dtype: torch.dtype | None = None
    cache_scaling: CacheScaling = "token"

    def __post_init__(self) -> None:
        for name in ("query_heads", "kv_heads", "head_size"):
            if not is_integer(getattr(self, name), 1):
                raise ValueError(
                    f"{name} is {getattr(self, name)!r}: it must be an integer from 1 on"
                )
        if self.query_heads % self.kv_heads:
            raise ValueError(
                f"query_heads is {self.query_heads}: it must be a multiple of kv_heads "
                f"({self.kv_heads})"
            )
        if self.page_tokens not in PAGE_TOKENS:
            raise ValueError(f"page_tokens is {self.page_tokens}: it must be one of {PAGE_TOKENS}")
        if not is_integer(self.window, 0, INT32_MAX):
            raise ValueError(
                f"window is {self.window!r}: it must be an integer from 0 (none) to {INT32_MAX}"
            )
        if not isinstance(self.dtype, torch.dtype) or not self.dtype.is_floating_point:
            raise ValueError(f"dtype is {self.dtype!r}: it must be a floating-point torch.dtype")
        if self.scale is not None and not math.isfinite(self.scale):
            raise ValueError(f"scale is {self.scale}: it must be None or finite")
        if not 0.0 <= self.softcap < math.inf:
            raise ValueError(f"softcap is {self.softcap}: it must be 0 (none) or more, and finite")
        if self.cache_dtype not in (None, self.dtype, *QUANTISED):
            raise ValueError(
                f"cache_dtype is {self.cache_dtype}: it must be None, {self.dtype} or one of "
                f"{', '.join(map(str, QUANTISED))}"
            )
        if self.cache_scaling not in ("token", "tensor"):
            raise ValueError(
                f"cache_scaling is {self.cache_scaling!r}: it must be 'token' or 'tensor'"
            )

    @property
    def stored_dtype(self) -> torch.dtype:
        """The type of the numbers in the cache."""
        return self.dtype if self.cache_dtype is None else self.cache_dtype

    @property
    def is_quantised(self) -> bool:
        """Whether the cache has scales."""
        return self.stored_dtype in QUANTISED

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

    Rows behind the last new token are padding: they fill a shape that was prepared, belong to no
    sequence, and their results mean nothing. `padding_slots` says where their keys and values go.

    Raises:
        ValueError: the lengths contradict each other, or a table row is too short.
    """

    query_starts: Int32Array
    context_lens_S: Int32Array
    table_SC: Int32Array
    page_tokens: int
    padding_slots: Int64Array = field(default_factory=lambda: NO_SLOTS, repr=False)
    positions_T: Int32Array = field(init=False, repr=False)
    slots_T: Int64Array = field(init=False, repr=False)

    def __post_init__(self) -> None:
        for name in ("query_starts", "context_lens_S", "table_SC"):
            object.__setattr__(self, name, _int32(name, getattr(self, name)))
        object.__setattr__(self, "padding_slots", np.asarray(self.padding_slots, np.int64))
        self._check()
        query_lens_S = self.query_lens_S
        first_S = self.context_lens_S - query_lens_S - self.query_starts[:-1]
        tokens = int(self.query_starts[-1])
        positions_T = np.arange(tokens, dtype=np.int32) + np.repeat(first_S, query_lens_S)
        sequence_T = np.repeat(np.arange(len(query_lens_S)), query_lens_S)
        page_T, offset_T = np.divmod(positions_T, self.page_tokens)
        slots_T = self.table_SC[sequence_T, page_T].astype(np.int64) * self.page_tokens + offset_T
        if len(self.padding_slots):
            positions_T = np.concatenate((positions_T, np.zeros_like(self.padding_slots, np.int32)))
            slots_T = np.concatenate((slots_T, self.padding_slots))
        object.__setattr__(self, "positions_T", positions_T)
        object.__setattr__(self, "slots_T", slots_T)

    def _check(self) -> None:
        if self.page_tokens not in PAGE_TOKENS or not is_integer(self.page_tokens, 1):
            raise ValueError(
                f"page_tokens is {self.page_tokens!r}: it must be one of {PAGE_TOKENS}"
            )
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
        """The step's new tokens."""
        return int(self.query_starts[-1])

    @property
    def rows(self) -> int:
        """T, the rows of the step's tensors: new tokens and padding."""
        return self.tokens + len(self.padding_slots)

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

    Dimension 0 of all tensors is the page, so whole pages can be copied without knowing the rest.
    The scales, float32, are there where the spec is quantised; one for the whole tensor is [1].
    """

    backend: str
    spec: AttentionSpec
    k: torch.Tensor
    v: torch.Tensor
    k_scale: torch.Tensor | None = None
    v_scale: torch.Tensor | None = None

    @property
    def pages(self) -> int:
        """How many pages there are."""
        return self.k.shape[0]

    @staticmethod
    def bytes_per_page(spec: AttentionSpec) -> int:
        """Bytes of one page's keys and values in one layer, with the scales of single tokens."""
        head_bytes = spec.head_size * spec.stored_dtype.itemsize
        if spec.is_quantised and spec.cache_scaling == "token":
            head_bytes += SCALE_BYTES
        return 2 * spec.page_tokens * spec.kv_heads * head_bytes


def is_integer(value: object, least: int, most: int = INT32_MAX) -> bool:
    """Whether it's a whole number in that range, as Python or numpy keep them."""
    return isinstance(value, (int, np.integer)) and least <= int(value) <= most


def _int32(name: str, values: npt.ArrayLike) -> Int32Array:
    """The same integers as the kernels read them.

    Raises:
        ValueError: they are no integers, or too large.
    """
    array = np.asarray(values)
    if array.dtype.kind not in "iufb":
        raise ValueError(f"{name} is {array.dtype}: integers are needed")
    if array.dtype.kind == "f" and (array != np.trunc(array)).any():
        raise ValueError(f"{name} is {array.dtype} with fractions: integers are needed")
    if array.dtype.itemsize >= 4 and array.size:
        least, most = array.min(), array.max()
        if least < -INT32_MAX or most > INT32_MAX:
            worst = most if most > INT32_MAX else least
            raise ValueError(f"{name} goes up to {worst}: {INT32_MAX} is the limit")
    return np.ascontiguousarray(array, dtype=np.int32)
