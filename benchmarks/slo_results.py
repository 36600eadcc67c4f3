"""Keeps what was measured: each run is written as soon as it ends, the next call goes on there."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hfx.bench.record import Record


class OutOfTime(Exception):
    """The next run would not end within the time of this call."""


class Results:
    """Rows of the benchmark by their keys, kept in `path` (or only in memory without one)."""

    def __init__(self, path: Path | None) -> None:
        self.record = Record("slo")
        self.path = path
        if path and path.exists():
            self.record.rows = json.loads(path.read_text())["rows"]

    @property
    def rows(self) -> list[dict[str, Any]]:
        return self.record.rows

    def find(self, part: str, **keys: object) -> dict[str, Any] | None:
        """The last row of this part with these values."""
        found = self.all(part, **keys)
        return found[-1] if found else None

    def all(self, part: str, **keys: object) -> list[dict[str, Any]]:
        """Every row of this part with these values, in the order of measuring."""
        return [
            row
            for row in self.rows
            if row["part"] == part and all(row.get(key) == value for key, value in keys.items())
        ]

    def add(self, part: str, row: Mapping[str, Any]) -> dict[str, Any]:
        """Keep a row and write the file at once, complete or not at all."""
        kept = {"part": part, **row, "load_average": os.getloadavg()[0]}
        self.rows.append(kept)
        self.save()
        return kept

    def drop(self, part: str, **keys: object) -> None:
        """Forget rows, so that they are measured again."""
        gone = self.all(part, **keys)
        self.record.rows = [row for row in self.rows if row not in gone]
        self.save()

    def save(self) -> None:
        if self.path:
            beside = self.path.with_suffix(".partial")
            self.record.write(beside)
            beside.replace(self.path)
