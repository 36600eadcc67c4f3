"""What one matrix product costs: fitted from measured products, for models nobody has run.

Rows m, outputs n, inputs k; seconds. The time is the greatest of a few bounds, each a sum over
operations, bytes of activations, weights and results, and a fixed part.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from .nnls import Floats, Greatest, greatest

FEWEST = 30


@dataclass(frozen=True, slots=True)
class GemmCost:
    """Times of bf16 products on one device; never cheaper for a larger product."""

    fitted: Greatest

    @classmethod
    def fit(cls, products: Sequence[tuple[int, int, int, float]]) -> GemmCost:
        """From (m, n, k, seconds).

        Raises:
            ValueError: fewer than 30 products, or a size or time that is not positive and finite.
        """
        if len(products) < FEWEST:
            raise ValueError(
                f"{len(products)} products are too few: measure at least {FEWEST}, rows from 1 to "
                "8192 on matrices from 1024 x 1024 up"
            )
        table = np.array(products, dtype=float)
        if not (np.isfinite(table) & (table > 0)).all():
            raise ValueError("a product's size or time is not positive and finite: drop it")
        shared, own = _columns(*table[:, :3].T)
        return cls(greatest(shared, own, table[:, 3], pieces=3))

    def seconds(self, m: Floats | float, n: float, k: float) -> Floats:
        """The time of products of m rows; m may be an array."""
        rows = np.atleast_1d(np.asarray(m, dtype=float))
        return self.fitted.at(*_columns(rows, np.full_like(rows, n), np.full_like(rows, k)))


def _columns(m: Floats, n: Floats, k: Floats) -> tuple[Floats, Floats]:
    ones = np.ones_like(m)
    own = np.column_stack([ones, m * n * k, m * k, n * k, m * n])
    return np.column_stack([ones, k]), own
