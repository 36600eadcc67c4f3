"""What the attention kernels need of an Ascend core, from its compilers and without a device.

    make ascend

Rows as `benchmarks.targets` has them: `shared_bytes` is a cube core's L1. A row that doesn't
compile, or needs more than the memories hold, isn't ok, and then the exit status is 1. Static, not
timed. Tiles are those of kernels/npu/tiles.json.
"""

import argparse
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from .ascend_compiler import CompileError, kernels, planned
from .ascend_memory import beyond_limits, overflow, used_bytes

TILES = Path(__file__).parent.parent / "kernels" / "npu" / "tiles.json"
CHIPS = ("Ascend910B3", "Ascend910_9391")  # Atlas A2 and A3
PAGE = 128
GROUP, KV_HEADS = 4, 8
SMALL_ROWS = 16
SLOTS = 16
POINTERS = {
    "partial": "*fp32", "stats": "*fp32", "k_scale": "*fp32", "v_scale": "*fp32",
    "sinks_N": "*fp32", "counts": "*i32", "items": "*i32", "table": "*i32", "reductions": "*i32",
    "score_scale": "fp32", "softcap": "fp32", "q_stride": "i32", "out_stride": "i32",
    "table_stride": "i32",
}  # fmt: skip
COLUMNS = (
    "kernel", "target", "registers", "spill_bytes", "shared_bytes", "ctas_per_sm", "ub_bytes",
    "l0c_bytes", "reason", "ok",
)  # fmt: skip

Case = tuple[str, Any, dict[str, Any]]


def cases() -> Iterator[Case]:
    """(name, kernel, constants) of everything that serving launches."""
    attend = kernels("attend")
    for rule in json.loads(TILES.read_text()):
        size = rule["head_size"]
        for kind in ("prompt", "decode", "mixed"):
            yield f"{kind} D{size}", attend.ragged_attention, _constants(size, rule[kind])
        for kind in ("prompt", "decode"):
            features = _constants(size, rule[kind], WINDOW=1024, HAS_CAP=True, HAS_SINKS=True)
            features.pop("sinks_N")
            yield f"{kind} D{size} window cap sinks", attend.ragged_attention, features
        rows = rule["mixed"]["large"][0]
        shape = {"G": GROUP, "M": KV_HEADS, "H": size, "W": size}
        reduction = shape | {"PARTIAL_ROWS": rows, "SLOTS": SLOTS, "WIDEN": False}
        yield f"reduce D{size}", attend.reduce_splits, reduction


def row(case: Case, chip: str) -> dict[str, Any]:
    """A case on a chip, as a row of the table."""
    name, kernel, constants = case
    signature = {
        each: POINTERS.get(each, "*bf16") for each in kernel.arg_names if each not in constants
    }
    answer = dict.fromkeys(COLUMNS) | {"kernel": name, "target": chip, "ok": False}
    try:
        used = used_bytes(planned(kernel, signature, constants, chip))
    except CompileError as error:
        return answer | {"reason": overflow(str(error)) or str(error)[-300:].replace("\n", " ")}
    answer |= {"ub_bytes": used["ub_bytes"], "shared_bytes": used["l1_bytes"]}
    reason = "; ".join(beyond_limits(used))
    return answer | {"l0c_bytes": used["l0c_bytes"], "reason": reason, "ok": not reason}


def main(arguments: list[str] | None = None) -> int:
    """Print a row a case and chip; 1 where one isn't ok."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--chip", choices=CHIPS, action="append", help="default: all of them")
    options.add_argument("--only", default="", metavar="TEXT", help="cases whose name has it")
    options.add_argument("--json", type=Path, metavar="FILE", help="write the rows")
    chosen = options.parse_args(arguments)
    rows = []
    for case in cases():
        if chosen.only in case[0]:
            for chip in chosen.chip or CHIPS:
                rows.append(row(case, chip))
                print(_line(rows[-1]), flush=True)
    if chosen.json:
        chosen.json.write_text(json.dumps(rows, indent=1) + "\n")
    wrong = sum(not each["ok"] for each in rows)
    print(f"static, not timed: {len(rows)} compiled, {wrong} not ok")
    return 1 if wrong or not rows else 0


def _constants(size: int, tile: dict[str, Any], **features: Any) -> dict[str, Any]:
    large_rows, large_keys = tile.get("large", (0, 0))
    small_keys = tile.get("small_keys", 0)
    return {
        "G": GROUP,
        "M": KV_HEADS,
        "H": size,
        "W": size,
        "PAGE": PAGE,
        "WINDOW": 0,
        "HAS_CAP": False,
        "HAS_SINKS": False,
        "SCALING": "",
        "ADDRESSING": "page",
        "LARGE_ROWS": large_rows,
        "LARGE_KEYS": large_keys,
        "SMALL_ROWS": SMALL_ROWS if small_keys else 0,
        "SMALL_KEYS": small_keys,
        "PARTIAL_ROWS": max(large_rows, SMALL_ROWS),
        "WIDEN": False,
        "k_scale": None,
        "v_scale": None,
        "sinks_N": None,
        **features,
    }


def _line(each: dict[str, Any]) -> str:
    sizes = "  ".join(f"{name} {each[name]}" for name in ("ub_bytes", "shared_bytes", "l0c_bytes"))
    return f"{each['kernel']:<28} {each['target']:<15} {sizes}  {each['reason'] or 'ok'}"


if __name__ == "__main__":
    sys.exit(main())
