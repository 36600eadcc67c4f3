"""Finished runs in a file of JSON lines, so that a sweep that was stopped goes on where it was.

A line is found again by what its run depended on: every setting, the contents of every file that it
read, and the sources of the simulator and of what it simulates.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

from hfx.machine import ROOT

from .scenario import Point, Run, Scenario

SIMULATED = ("simulate", "scheduler", "scaler", "cost", "cache")
SHARED = ("request.py", "config.py", "traces.py")
SHOWN = {"cli.py", "options.py", "output.py", "progress.py", "plots.py", "pages.py", "report.py"}


class Ledger:
    """Runs of one scenario that are kept in a file. None keeps nothing."""

    def __init__(self, path: Path | None, scenario: Scenario) -> None:
        self.path = path
        self._inputs = scenario.inputs()
        self._settings = scenario.settings()
        self._file: IO[str] | None = None

    def __enter__(self) -> Self:
        if self.path is not None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._file = self.path.open("a", encoding="utf-8")
            if self._file.tell() and not self.path.read_bytes().endswith(b"\n"):
                self._file.write("\n")  # a writer was killed in the middle of a line
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._file is not None:
            self._file.close()

    def known(self, points: Iterable[Point]) -> dict[Point, Run]:
        """Those of these points that are done."""
        if self.path is None or not self.path.exists():
            return {}
        keys = {self.key(point): point for point in points}
        found = {}
        for line in self.path.read_text(encoding="utf-8").splitlines():
            entry = _read(line)
            if entry is not None and entry.get("key") in keys:
                found[keys[entry["key"]]] = Run.of(entry["run"])
        return found

    def add(self, run: Run) -> None:
        """Keep a run; when this returns it is on the disk."""
        if self._file is None:
            return
        line = {"key": self.key(run.point), "run": run.plain()}
        self._file.write(json.dumps(line, separators=(",", ":")) + "\n")
        self._file.flush()
        os.fsync(self._file.fileno())

    def key(self, point: Point) -> str:
        """What a run is found again by."""
        depends = {
            "settings": self._settings,
            "inputs": self._inputs,
            "point": [point.policy, point.rate, point.seed],
            "sources": sources(),
        }
        return hashlib.sha256(json.dumps(depends, sort_keys=True).encode()).hexdigest()


def _read(line: str) -> dict[str, Any] | None:
    """None where a writer was killed before its end."""
    try:
        entry = json.loads(line)
    except json.JSONDecodeError:
        return None
    return entry if isinstance(entry, dict) else None


@cache
def sources() -> str:
    """A digest of every source file that may change a figure."""
    root = ROOT / "hfx"
    files = [root / name for name in SHARED]
    for folder in SIMULATED:
        files += [path for path in (root / folder).rglob("*") if path.suffix in (".py", ".json")]
    digest = hashlib.sha256()
    for path in sorted(path for path in files if path.name not in SHOWN):
        digest.update(f"{path.relative_to(root)}\n".encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()
