"""The recorded rows of `make ascend`, for tables on machines that lack Ascend's compilers."""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
RECORDED = Path(__file__).with_name("ascend.json")
COLUMNS = (
    "kernel", "target", "registers", "spill_bytes", "shared_bytes", "ctas_per_sm", "ub_bytes",
    "reason", "ok", "l0c_bytes",
)  # fmt: skip
SOURCES = (
    "gpu/attend.py", "gpu/cache.py", "gpu/numbers.py", "gpu/rope.py", "gpu/sample.py",
    "npu/small.py", "npu/tiles.json",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Recorded:
    """Rows, and which compilers made them when, in one line."""

    label: str
    rows: list[dict[str, Any]]


def recorded(path: Path = RECORDED) -> Recorded:
    """What was recorded last; the label tells where kernels have changed since.

    Raises:
        OSError: there is no such file.
    """
    table = json.loads(path.read_text())
    compilers = ", ".join(f"{name} {number}" for name, number in table["compilers"].items())
    label = f"Ascend, recorded {table['recorded']} with {compilers}"
    if table["sources"] != sources():
        label += "; kernels have changed since: `make ascend ARGS=--record`"
    return Recorded(label, table["rows"])


def sources() -> str:
    """A digest of the files that the rows follow from."""
    digest = hashlib.sha256()
    for name in SOURCES:
        digest.update((ROOT / "kernels" / name).read_bytes())
    return digest.hexdigest()[:16]
