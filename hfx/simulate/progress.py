"""Shows how runs go: requests that have arrived, of about how many, and the time left."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from types import TracebackType
from typing import Self

from tqdm import tqdm

from .scenario import Point, Scenario


class Progress:
    """A bar over all runs together, on standard error where that is a terminal."""

    def __init__(self, scenario: Scenario, points: Sequence[Point], *, is_quiet: bool) -> None:
        self._expected = {point: scenario.expected(point.rate) for point in points}
        self._left: dict[Point, int] = {}  # of those that have begun
        self._runs, self._done = len(points), 0
        self._bar = tqdm(
            total=sum(self._expected.values()) or None,
            disable=is_quiet or not sys.stderr.isatty(),
            unit="req",
            unit_scale=True,
            leave=False,
            dynamic_ncols=True,
        )

    def tell(self, point: Point, more: int, total: int) -> None:
        """More requests of a run have arrived."""
        if not more:  # it begins, and knows how many they are
            self._left[point] = total
            self._bar.total = (self._bar.total or 0) + total - self._expected[point]
            self._bar.set_description_str(self._words(point), refresh=False)
        self._left[point] -= more
        self._bar.update(more)

    def end(self, point: Point) -> None:
        """A run is done, perhaps with fewer requests than were thought."""
        self._done += 1
        self._bar.update(self._left.pop(point))

    def _words(self, point: Point) -> str:
        if self._runs == 1:
            return str(point)
        return f"{self._done}/{self._runs} runs, {point}"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._bar.close()
