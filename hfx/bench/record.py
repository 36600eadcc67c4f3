"""The JSON that every benchmark of the project writes: the machine, the rows, the summary."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hfx.machine import ROOT, describe_machine, finite

__all__ = ["ROOT", "Record", "describe_machine", "finite"]


@dataclass(slots=True)
class Record:
    """One benchmark's outcome. Create it before measuring: it notes the load average then."""

    benchmark: str
    rows: list[dict[str, Any]] = field(default_factory=list)
    summary: dict[str, float] = field(default_factory=dict)
    machine: dict[str, Any] = field(init=False)

    def __post_init__(self) -> None:
        self.machine = describe_machine() | {"load_average_before": os.getloadavg()}

    def write(self, path: Path) -> None:
        """Write `{"machine", "rows", "summary"}`; what is not finite becomes null."""
        self.machine |= {"benchmark": self.benchmark, "load_average_after": os.getloadavg()}
        body = {"machine": self.machine, "rows": self.rows, "summary": self.summary}
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(finite(body), indent=1) + "\n")
