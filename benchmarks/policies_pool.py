"""Runs cases in several processes, with a bar that says how much time is left."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from types import TracebackType
from typing import Any, Self

from tqdm import tqdm

from .policies_cases import Case, run
from .policies_store import Store


class Pool:
    """Two processes by default; with one, cases run in this process."""

    def __init__(self, store: Store, processes: int = 2, *, quiet: bool = False) -> None:
        self.store = store
        self._quiet = quiet or not sys.stderr.isatty()
        context = get_context("spawn")
        self._pool = ProcessPoolExecutor(processes, context) if processes > 1 else None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)

    def run(self, cases: Iterable[Case], title: str) -> None:
        """Run what the store lacks, the longest first; each is kept as soon as it ends."""
        missing = sorted(self.store.missing(cases), key=lambda case: (-case.requests, case.key))
        total = sum(case.requests for case in missing)
        with self._bar(title, total) as bar:
            if self._pool is None:
                for case in missing:
                    self._done(case, run(case), bar)
                return
            futures = {self._pool.submit(run, case): case for case in missing}
            for future in as_completed(futures):
                self._done(futures[future], future.result(), bar)

    def _done(self, case: Case, outcome: dict[str, Any], bar: tqdm[Any]) -> None:
        self.store.add(case, outcome)
        bar.update(case.requests / 1e3)

    def _bar(self, title: str, total: float) -> tqdm[Any]:
        form = "{desc} {percentage:3.0f}%|{bar}| {elapsed} gone, {remaining} left"
        return tqdm(
            total=total / 1e3, desc=title, bar_format=form, disable=self._quiet, leave=False
        )
