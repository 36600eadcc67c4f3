"""What a step's attention should cost, priced from its work list: the benchmark's `predicted_us`.

The form is that of `hfx.cost`, and its solver: the greater of two bounds, what the busiest program
computes and what all read, each a sum with prices of at least 0, fitted by relative error. What is
priced is what the tiles do, not what the case asks for, so that padding and imbalance are predicted
too. A case is predicted from prices that were fitted to all the others: no case's own time is in
its prediction.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from hfx.cost.nnls import Floats, nnls
from hfx.kernels import WorkList
from hfx.kernels.batch import Int64Array

FEWEST = 8  # cases: with fewer, prices are chance
OPERATIONS_PER_BYTE = 16  # of a case that is first taken to wait for memory: fewer than this
COMPUTING, READING = slice(0, 5), slice(5, 7)  # columns of the two bounds


def quantities_of(work: WorkList, programs: int) -> tuple[float, ...]:
    """What is priced, for the two bounds.

    Of the busiest program: a call, products, scores, capped scores, numbers widened from a
    quantised cache. Of all: bytes (once for every tile that reads them), pages.
    """
    spec = work.spec
    rows_W, keys_W = _tiles(work)
    total, _ = work.makespan(1)
    share = spec.kv_heads * (work.makespan(programs)[0] / total if total else 1 / programs)
    scores = share * float((rows_W * keys_W).sum())
    pages = float((-(-keys_W // spec.page_tokens)).sum())
    keys = float(keys_W.sum())
    return (
        1.0,
        scores * spec.head_size,
        scores,
        scores if spec.softcap else 0.0,
        share * spec.head_size * keys if spec.is_quantised else 0.0,
        2 * spec.kv_heads * spec.head_size * spec.stored_dtype.itemsize * keys,
        spec.kv_heads * pages,
    )


def _tiles(work: WorkList) -> tuple[Int64Array, Int64Array]:
    """Rows and keys of every tile, a sequence where the back end has none."""
    if len(work.items):
        items = work.items.astype(np.int64)
        return items[:, 2] * work.spec.group, items[:, 5] - items[:, 4]
    batch = work.batch
    keys_S = batch.context_lens_S.astype(np.int64)
    if work.spec.window:
        keys_S = np.minimum(keys_S, work.spec.window + batch.query_lens_S - 1)
    return batch.query_lens_S.astype(np.int64) * work.spec.group, keys_S


def predict(quantities: Sequence[Sequence[float]], actual_us: Sequence[float]) -> list[float]:
    """The time of each case by the prices that all the others have; none of fewer than 8 cases."""
    if len(actual_us) < FEWEST:
        return []
    columns, target = np.asarray(quantities, float), np.asarray(actual_us, float)
    columns = columns / np.maximum(columns.max(axis=0), 1.0)
    reads = 2 * np.asarray(quantities)[:, 1] < OPERATIONS_PER_BYTE * np.asarray(quantities)[:, 5]
    predicted = []
    for i in range(len(target)):
        others = np.arange(len(target)) != i
        prices = _fit(columns[others], target[others], reads[others])
        predicted.append(float(_bounds(columns[i : i + 1], prices).max()))
    return predicted


def _fit(columns: Floats, target: Floats, reads: NDArray[np.bool_]) -> tuple[Floats, Floats]:
    """Prices of both bounds: each is fitted to the cases where it's the greater one."""
    for _ in range(8):
        prices = (
            _prices(columns[~reads, COMPUTING], target[~reads]),
            _prices(columns[reads, READING], target[reads]),
        )
        computing, reading = _bounds(columns, prices)
        if ((reading > computing) == reads).all():
            break
        reads = reading > computing
    return prices


def _prices(columns: Floats, target: Floats) -> Floats:
    return nnls(columns / target[:, None], np.ones(len(target)))


def _bounds(columns: Floats, prices: tuple[Floats, Floats]) -> Floats:
    return np.stack([columns[:, COMPUTING] @ prices[0], columns[:, READING] @ prices[1]])
