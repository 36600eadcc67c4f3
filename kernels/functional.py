"""The checked operators: each names the argument that is wrong, then launches a back end.

Dimensions are those of `kernels.operators`. `backend` None is the first back end that can run; for
the two that touch a cache it is the one that allocated it.
"""

from __future__ import annotations

import math

import numpy as np
import torch

from .backend import select
from .batch import Int32Array, Int64Array, KVCache
from .operators import Operators, RopeStyle
from .plan import WorkList


def attend(
    q_TNH: torch.Tensor,
    cache: KVCache,
    work: WorkList,
    out: torch.Tensor | None = None,
    sinks_N: torch.Tensor | None = None,
    *,
    backend: str | None = None,
) -> torch.Tensor:
    """Causal attention of a step's new tokens over the paged cache, [T, N, H].

    The step's own keys and values must be in the cache already (`kv_write`). `work` is the `plan`
    of the back end that allocated `cache`. `sinks_N`, float32, is given where the spec has sinks,
    and only there.

    Raises:
        ValueError: shapes, types, devices or back ends contradict each other, or the batch names a
            page that the cache doesn't have.
    """
    spec = work.spec
    if spec != cache.spec:
        raise ValueError(f"work was planned for {spec}, the cache was allocated for {cache.spec}")
    _check_rows("q_TNH", q_TNH, (work.batch.tokens, spec.query_heads, spec.head_size), spec.dtype)
    _check_device("q_TNH", q_TNH, cache.k.device)
    if out is not None:
        _check_rows("out", out, tuple(q_TNH.shape), spec.dtype)
        _check_written("out", out)
        _check_device("out", out, cache.k.device)
    if spec.sinks != (sinks_N is not None):
        raise ValueError(f"sinks_N is {'missing' if spec.sinks else 'given'}: see {spec}")
    if sinks_N is not None:
        _check_rows("sinks_N", sinks_N, (spec.query_heads,), torch.float32)
        _check_device("sinks_N", sinks_N, cache.k.device)
    _check_pages(work, cache)
    operators = _owner(cache, backend)
    if not isinstance(work, operators.work_type):
        raise ValueError(
            f"work is a {type(work).__name__}: the cache's back end, {operators.name!r}, "
            f"needs the {operators.work_type.__name__} of its own plan"
        )
    return operators.attend(q_TNH, cache, work, out, sinks_N)


def kv_write(
    cache: KVCache,
    k_TMH: torch.Tensor,
    v_TMH: torch.Tensor,
    slots_T: Int64Array,
    *,
    backend: str | None = None,
) -> None:
    """Put each token's keys and values into its slot (page * page_tokens + offset).

    Raises:
        ValueError: shapes, types, devices or back ends contradict each other, or a slot lies
            outside the cache.
    """
    spec = cache.spec
    _check_integers("slots_T", slots_T)
    shape = (len(slots_T), spec.kv_heads, spec.head_size)
    for name, x in (("k_TMH", k_TMH), ("v_TMH", v_TMH)):
        _check_rows(name, x, shape, spec.dtype)
        _check_device(name, x, cache.k.device)
    limit = cache.pages * spec.page_tokens
    if len(slots_T) and not 0 <= slots_T.min() <= slots_T.max() < limit:
        raise ValueError(
            f"slots_T spans {slots_T.min()} to {slots_T.max()}: the cache has slots 0 to "
            f"{limit - 1}"
        )
    if len(np.unique(slots_T)) < len(slots_T):
        raise ValueError("slots_T names a slot twice: which token stays would be chance")
    slots_T = np.ascontiguousarray(slots_T, np.int64)
    _owner(cache, backend).kv_write(cache, k_TMH, v_TMH, slots_T)


def rms_norm(
    x: torch.Tensor,
    weight_D: torch.Tensor,
    eps: float,
    residual: torch.Tensor | None = None,
    out: torch.Tensor | None = None,
    *,
    backend: str | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """(x / rms(x) * weight, residual) over the last dimension of x, [T, D] or [T, N, D].

    With a residual [T, D], x is added to it in place first and the sum is normalised; without, x
    itself comes back as the residual.

    Raises:
        ValueError: shapes, types or devices contradict each other.
    """
    if not 0 <= eps < math.inf:
        raise ValueError(f"eps is {eps}: it must be 0 or more, and finite")
    if x.ndim not in (2, 3) or x.stride(-1) != 1:
        raise ValueError(f"x is {_describe(x)}: [T, D] or [T, N, D] with contiguous D is needed")
    _check_rows("weight_D", weight_D, (x.shape[-1],), x.dtype)
    _check_device("weight_D", weight_D, x.device)
    for name, other in (("residual", residual), ("out", out)):
        if other is not None:
            _check_rows(name, other, tuple(x.shape), x.dtype)
            _check_written(name, other)
            _check_device(name, other, x.device)
    if residual is not None and x.ndim != 2:
        raise ValueError(f"x is {_describe(x)}: with a residual it must be [T, D]")
    return select(backend, device=x.device, dtype=x.dtype).rms_norm(x, weight_D, eps, residual, out)


def rope_(
    q_TNH: torch.Tensor,
    k_TMH: torch.Tensor,
    positions_T: Int32Array,
    table_PR: torch.Tensor,
    style: RopeStyle,
    *,
    backend: str | None = None,
) -> None:
    """Rotate the first R dimensions of every head of q and k in place.

    "neox" pairs dimension i with i + R / 2, "llama" 2 i with 2 i + 1.

    Raises:
        ValueError: shapes, types or devices contradict each other, or a position lies outside the
            table.
    """
    if q_TNH.ndim != 3 or k_TMH.ndim != 3:
        raise ValueError(
            f"q_TNH and k_TMH need 3 dimensions: {_describe(q_TNH)}, {_describe(k_TMH)}"
        )
    _check_integers("positions_T", positions_T)
    head = q_TNH.shape[2]
    for name, x in (("q_TNH", q_TNH), ("k_TMH", k_TMH)):
        _check_rows(name, x, (len(positions_T), x.shape[1], head), q_TNH.dtype)
        _check_written(name, x)
        _check_device(name, x, table_PR.device)
    if table_PR.dtype != torch.float32 or not table_PR.is_contiguous() or table_PR.ndim != 2:
        raise ValueError(f"table_PR is {_describe(table_PR)}: contiguous float32 [P, R] is needed")
    if table_PR.shape[1] > head or table_PR.shape[1] % 2:
        raise ValueError(f"table_PR has R = {table_PR.shape[1]}: it must be even, at most {head}")
    if len(positions_T) and not 0 <= positions_T.min() <= positions_T.max() < len(table_PR):
        raise ValueError(
            f"positions_T spans {positions_T.min()} to {positions_T.max()}: the table has "
            f"positions 0 to {len(table_PR) - 1}"
        )
    if style not in ("neox", "llama"):
        raise ValueError(f"style is {style!r}: it must be 'neox' or 'llama'")
    operators = select(backend, device=q_TNH.device, dtype=q_TNH.dtype)
    positions_T = np.ascontiguousarray(positions_T, np.int32)
    operators.rope_(q_TNH, k_TMH, positions_T, table_PR, style)


def silu_mul(
    gate_up_T2F: torch.Tensor, out: torch.Tensor | None = None, *, backend: str | None = None
) -> torch.Tensor:
    """silu(gate) * up of rows that hold gate and up side by side, [T, F].

    Raises:
        ValueError: the rows have an odd width or aren't contiguous, or `out` doesn't fit.
    """
    if gate_up_T2F.ndim != 2 or gate_up_T2F.shape[1] % 2 or gate_up_T2F.stride(1) != 1:
        raise ValueError(
            f"gate_up_T2F is {_describe(gate_up_T2F)}: [T, 2 F] with contiguous rows is needed"
        )
    if out is not None:
        shape = (gate_up_T2F.shape[0], gate_up_T2F.shape[1] // 2)
        _check_rows("out", out, shape, gate_up_T2F.dtype)
        _check_written("out", out)
        _check_device("out", out, gate_up_T2F.device)
    operators = select(backend, device=gate_up_T2F.device, dtype=gate_up_T2F.dtype)
    return operators.silu_mul(gate_up_T2F, out)


def linear(
    x_TI: torch.Tensor,
    weight_OI: torch.Tensor,
    bias_O: torch.Tensor | None = None,
    *,
    backend: str | None = None,
) -> torch.Tensor:
    """x W^T + bias, [T, O]. Packs the weights on every call: a model packs once, by `pack_linear`.

    Raises:
        ValueError: shapes, types or devices contradict each other.
    """
    if x_TI.ndim != 2 or weight_OI.ndim != 2:
        raise ValueError(f"x_TI and weight_OI need 2 dimensions: {_describe(x_TI)}")
    _check_rows("weight_OI", weight_OI, (weight_OI.shape[0], x_TI.shape[1]), x_TI.dtype)
    _check_device("weight_OI", weight_OI, x_TI.device)
    if bias_O is not None:
        _check_rows("bias_O", bias_O, (weight_OI.shape[0],), x_TI.dtype)
        _check_device("bias_O", bias_O, x_TI.device)
    operators = select(backend, device=x_TI.device, dtype=x_TI.dtype)
    return operators.linear(x_TI, operators.pack_linear(weight_OI, bias_O))


def _owner(cache: KVCache, backend: str | None) -> Operators:
    """The operators that understand the cache's layout."""
    if backend is not None and backend != cache.backend:
        raise ValueError(
            f"backend is {backend!r}: the cache belongs to {cache.backend!r}, and layouts differ"
        )
    return select(cache.backend, device=cache.k.device, dtype=cache.spec.dtype, spec=cache.spec)


def _check_pages(work: WorkList, cache: KVCache) -> None:
    """Every table entry that will be read names a page of the cache."""
    batch = work.batch
    if batch.page_tokens != cache.spec.page_tokens:
        raise ValueError(
            f"the batch has pages of {batch.page_tokens} tokens, the cache of "
            f"{cache.spec.page_tokens}"
        )
    used_SC = np.arange(batch.table_SC.shape[1]) * batch.page_tokens < batch.context_lens_S[:, None]
    wrong_SC = used_SC & ((batch.table_SC < 0) | (batch.table_SC >= cache.pages))
    if wrong_SC.any():
        sequence, column = np.argwhere(wrong_SC)[0]
        raise ValueError(
            f"table_SC[{sequence}, {column}] is {batch.table_SC[sequence, column]}: the cache has "
            f"pages 0 to {cache.pages - 1}"
        )


def _check_integers(name: str, values: Int32Array | Int64Array) -> None:
    if not isinstance(values, np.ndarray) or values.ndim != 1 or values.dtype.kind not in "iu":
        shown = f"{values.dtype} {values.shape}" if isinstance(values, np.ndarray) else type(values)
        raise ValueError(f"{name} is {shown}: a numpy array of integers in 1 dimension is needed")


def _check_rows(name: str, x: torch.Tensor, shape: tuple[int, ...], dtype: torch.dtype) -> None:
    """x has that shape and type, and everything but its first dimension is contiguous."""
    if not isinstance(x, torch.Tensor):
        raise ValueError(f"{name} is a {type(x).__name__}: a tensor is needed")
    if tuple(x.shape) != shape or x.dtype != dtype:
        raise ValueError(f"{name} is {_describe(x)}: {list(shape)} of {dtype} is needed")
    dense = 1
    for size, stride in zip(reversed(x.shape[1:]), reversed(x.stride()[1:]), strict=True):
        if size != 1 and stride != dense:
            raise ValueError(
                f"{name} has strides {x.stride()}: only its first dimension may be strided"
            )
        dense *= size


def _check_written(name: str, x: torch.Tensor) -> None:
    """Its rows don't share memory: what stays there would be chance."""
    if len(x) > 1 and abs(x.stride(0)) < x[0].numel():
        raise ValueError(
            f"{name} has strides {x.stride()}: it is written to, and its rows overlap; clone it"
        )


def _check_device(name: str, x: torch.Tensor, device: torch.device) -> None:
    if x.device != device:
        raise ValueError(f"{name} is on {x.device}: everything else is on {device}")


def _describe(x: torch.Tensor) -> str:
    return f"{list(x.shape)} of {x.dtype} with strides {x.stride()}"
