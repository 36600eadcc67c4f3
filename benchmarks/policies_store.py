"""Runs that are kept: a line of JSON each as soon as it ends, found again by the next command."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from .policies_cases import CLAIRVOYANT, OWN, Case


class Store:
    """Figures by case. Rows of other versions of the sources don't count, but for `any_version`.

    Without a path runs are kept in memory alone.
    """

    def __init__(
        self, path: Path | None, versions: tuple[str, str], *, any_version: bool = False
    ) -> None:
        self.path = path
        self.versions = versions
        self.any_version = any_version
        self._rows: dict[str, dict[str, Any]] = {}
        if path is not None and path.exists():
            for line in path.read_text().splitlines():
                self._read(line)

    def find(self, case: Case) -> dict[str, float] | None:
        """The figures of a case that has been run."""
        row = self._rows.get(case.key)
        return None if row is None else row["figures"]

    def missing(self, cases: Iterable[Case]) -> list[Case]:
        """Those that have not been run, each once."""
        return [case for case in dict.fromkeys(cases) if case.key not in self._rows]

    def add(self, case: Case, outcome: dict[str, Any]) -> None:
        """Keep a run."""
        row = {"case": asdict(case), "version": self._version(case.policy), **outcome}
        self._rows[case.key] = row
        if self.path is not None:
            with self.path.open("a") as file:
                file.write(json.dumps(row) + "\n")

    def drop(self) -> None:
        """Forget every run."""
        self._rows.clear()
        if self.path is not None:
            self.path.unlink(missing_ok=True)

    def rows(self) -> list[dict[str, Any]]:
        """Every run, in order of case."""
        return [self._rows[key] for key in sorted(self._rows)]

    def _read(self, line: str) -> None:
        try:
            row = json.loads(line)
        except ValueError:
            return  # the line that was being written when the last command was stopped
        case = Case(**row["case"])
        if self.any_version or row["version"] == self._version(case.policy):
            self._rows[case.key] = row

    def _version(self, policy: str) -> str:
        return self.versions[policy in (OWN, CLAIRVOYANT)]
