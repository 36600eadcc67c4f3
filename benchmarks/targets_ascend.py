"""What every Triton kernel needs of an Ascend core, from its compilers and without a device.

    make ascend

Rows as `benchmarks.targets` has them: `shared_bytes` is a cube core's L1. A row isn't ok where a
kernel doesn't compile or needs more than the memories hold, or compiles although serving counts on
its refusal; then the exit status is 1. Static, not timed. With --record the rows become the table
that `benchmarks.targets` prints on machines without these compilers.
"""

import argparse
import json
import os
import sys
from concurrent.futures import ProcessPoolExecutor
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import version
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from .ascend_cases import CHIPS, Case, cases
from .ascend_compiler import CompileError, planned
from .ascend_memory import beyond_limits, overflow, used_bytes
from .ascend_table import COLUMNS, RECORDED, sources

PACKAGES = ("triton-ascend", "ascendnpu-ir")


def row(case: Case, chip: str) -> dict[str, Any]:
    """A case on a chip, as a row of the table."""
    answer = dict.fromkeys(COLUMNS) | {"kernel": case.name, "target": chip, "ok": False}
    names = case.kernel.arg_names
    types = {name: case.types[name] for name in names if name in case.types}
    constants = {name: case.constants.get(name) for name in names if name not in types}
    try:
        used = used_bytes(planned(case.kernel, types, constants, chip))
    except CompileError as error:
        said = overflow(str(error)) or " ".join(str(error)[-300:].split())
        if case.cannot and case.cannot in said:
            return answer | {"reason": f"{said}; {case.instead}", "ok": True}
        return answer | {"reason": said}
    answer |= {"ub_bytes": used["ub_bytes"], "shared_bytes": used["l1_bytes"]}
    expected = f"compiles: {case.instead} is not needed" if case.cannot else ""
    reason = "; ".join((*beyond_limits(used), *([expected] if expected else ())))
    return answer | {"l0c_bytes": used["l0c_bytes"], "reason": reason or None, "ok": not reason}


def main(arguments: list[str] | None = None) -> int:
    """Print a row a case and chip; 1 where one isn't ok."""
    options = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument("--chip", choices=CHIPS, action="append", help="default: all of them")
    options.add_argument("--only", default="", metavar="TEXT", help="cases whose name has it")
    options.add_argument("--json", type=Path, metavar="FILE", help="write the rows")
    options.add_argument("--record", action="store_true", help=f"write {RECORDED.name}")
    chosen = options.parse_args(arguments)
    wanted = [
        (name, chip)
        for name, case in _cases().items()
        for chip in case.chips
        if chosen.only in name and chip in (chosen.chip or CHIPS)
    ]
    rows = []
    with ProcessPoolExecutor(os.cpu_count(), get_context("spawn")) as pool:
        for each in pool.map(_row_called, wanted):
            rows.append(each)
            print(_line(each), flush=True)
    if chosen.json:
        chosen.json.write_text(json.dumps(rows, indent=1) + "\n")
    if chosen.record:
        RECORDED.write_text(json.dumps(_recorded(rows), indent=1) + "\n")
    wrong = sum(not each["ok"] for each in rows)
    print(f"static, not timed: {len(rows)} compiled, {wrong} not ok")
    return 1 if wrong or not rows else 0


def _recorded(rows: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "recorded": datetime.now(UTC).date().isoformat(),
        "compilers": {name: version(name) for name in PACKAGES},
        "sources": sources(),
        "rows": rows,
    }


@cache
def _cases() -> dict[str, Case]:
    return {case.name: case for case in cases()}


def _row_called(key: tuple[str, str]) -> dict[str, Any]:
    name, chip = key
    return row(_cases()[name], chip)


def _line(each: dict[str, Any]) -> str:
    sizes = "  ".join(f"{name} {each[name]}" for name in ("ub_bytes", "shared_bytes", "l0c_bytes"))
    verdict = each["reason"] or "ok"
    return f"{each['kernel']:<32} {each['target']:<15} {sizes}  {verdict}"


if __name__ == "__main__":
    sys.exit(main())
