"""A linear program that is written down row by row, and solved by HiGHS."""

from __future__ import annotations

from collections.abc import Sequence
from math import inf

import numpy as np
from numpy.typing import NDArray

Row = list[tuple[int, float]]  # (variable, coefficient)


class Program:
    """Variables from 0 up, rows that bound their sums from above."""

    def __init__(self) -> None:
        self._upper: list[float] = []
        self._rows: list[Row] = []
        self._most: list[float] = []

    def variable(self, upper: float = inf) -> int:
        """A new variable, at most `upper`."""
        self._upper.append(upper)
        return len(self._upper) - 1

    def at_most(self, row: Row, bound: float) -> None:
        """The sum of coefficients times variables stays within the bound."""
        self._rows.append(row)
        self._most.append(bound)

    def most(self, row: Row) -> NDArray[np.float64]:
        """The variables at which a sum is greatest.

        Raises:
            RuntimeError: there is no such point; every program here has one, so a row is wrong.
        """
        from scipy.optimize import linprog
        from scipy.sparse import csr_array

        value = np.zeros(len(self._upper))
        for variable, coefficient in row:
            value[variable] -= coefficient
        starts = np.cumsum([0, *map(len, self._rows)])
        columns = np.fromiter((v for r in self._rows for v, _ in r), np.int32, starts[-1])
        numbers = np.fromiter((c for r in self._rows for _, c in r), np.float64, starts[-1])
        matrix = csr_array((numbers, columns, starts), shape=(len(self._rows), len(self._upper)))
        bounds: Sequence[tuple[float, float]] = [(0.0, upper) for upper in self._upper]
        found = linprog(value, A_ub=matrix, b_ub=self._most, bounds=bounds, method="highs")
        if found.status:
            raise RuntimeError(f"the linear program has no optimum: {found.message}")
        best: NDArray[np.float64] = found.x
        return best
