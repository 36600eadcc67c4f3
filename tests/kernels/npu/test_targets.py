"""The table of what kernels need of an Ascend core; `make ascend` fills it with the compilers."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from benchmarks.ascend_memory import LIMITS, beyond_limits, overflow, used_bytes
from benchmarks.ascend_table import COLUMNS, RECORDED, SOURCES, recorded

ROOT = Path(__file__).parents[3]
PYTHON = ROOT / ".venv-ascend/bin/python"
TILES = json.loads((ROOT / "kernels/npu/tiles.json").read_text())
HIVM = """
  %c4096_i64 = arith.constant 4096 : i64
  %c0_i64 = arith.constant 0 : i64
  %0 = hivm.hir.pointer_cast(%c4096_i64) : memref<8x1x16x16xbf16, #hivm.address_space<cbuf>>
  %1 = hivm.hir.pointer_cast(%c0_i64) : memref<16x128xf32, #hivm.address_space<cc>>
  %2 = hivm.hir.pointer_cast(%c0_i64, %c4096_i64) : memref<100xi1, #hivm.address_space<ub>>
  %3 = hivm.hir.pointer_cast(%c0_i64) : memref<1xf32, #hivm.address_space<ub>>
  %4 = memref.subview %3[0] [1] [1] : memref<1xf32, #hivm.address_space<ub>>
"""


def test_a_memory_is_used_up_to_the_end_of_its_last_buffer():
    assert used_bytes(HIVM) == {
        "l1_bytes": 4096 + 8 * 16 * 16 * 2,
        "l0c_bytes": 16 * 128 * 4,
        "ub_bytes": 4096 + 13,
    }


def test_a_buffer_of_unknown_form_is_not_passed_over():
    with pytest.raises(ValueError, match=r"a buffer that this can't read: %9 = .*<l2>"):
        used_bytes("%9 = hivm.hir.pointer_cast(%c0) : memref<4xf32, #hivm.address_space<l2>>")
    with pytest.raises(ValueError, match="can't read"):
        used_bytes(
            "%9 = hivm.hir.pointer_cast(%c0) : memref<?xf32, strided<[?]>, #hivm.address_space<ub>>"
        )


def test_an_overflow_is_told_in_kib():
    said = "error: ub overflow, requires 1859584 bits while 1572864 bits avaliable!"

    assert overflow(said) == "ub overflow: 227 KiB of 192"
    assert overflow("error: Cannot find hivmc") is None


def test_what_does_not_fit_is_named():
    assert list(beyond_limits(dict(LIMITS))) == []
    too_much = LIMITS | {"l0c_bytes": LIMITS["l0c_bytes"] + 1}
    assert list(beyond_limits(too_much)) == ["l0c_bytes 131073 is more than 131072"]


@pytest.mark.parametrize("rule", TILES, ids=lambda rule: f"{rule['width']} {rule['quantised']}")
def test_tiles_are_powers_of_two_within_a_page(rule):
    tiles = [tile for tile in rule.values() if isinstance(tile, dict)]
    rows, keys = zip(*(tile["large"] for tile in tiles if "large" in tile), strict=True)
    keys += tuple(tile["small_keys"] for tile in tiles if "small_keys" in tile)

    for number in rows + keys:
        assert number >= 16 and number & (number - 1) == 0
    assert max(keys) <= 128


@pytest.mark.parametrize("name", SOURCES)
def test_the_recorded_table_names_files_that_exist(name):
    assert (ROOT / "kernels" / name).is_file()


def test_the_recorded_table_has_every_head_size_and_operator_and_fits():
    rows = recorded().rows
    names = {row["kernel"] for row in rows}

    assert all(row["ok"] and list(row) == list(COLUMNS) for row in rows)
    for kind in ("prompt", "decode", "mixed", "reduce"):
        assert {f"{kind} D{size}" for size in (64, 80, 96, 128, 192, 256)} <= names
    for operator in ("kv_write D128 int8 token", "rope_kv_write neox D128", "rms_norm", "sample"):
        assert operator in names
    for row in rows:
        if row["ub_bytes"] is None:  # what serving doesn't count on, and says so
            assert "; " in row["reason"]
        else:
            assert row["ub_bytes"] <= LIMITS["ub_bytes"]


def test_a_table_of_other_sources_says_so(tmp_path):
    stale = json.loads(RECORDED.read_text()) | {"sources": "of yesterday"}
    path = tmp_path / "ascend.json"
    path.write_text(json.dumps(stale))

    assert "kernels have changed since: `make ascend ARGS=--record`" in recorded(path).label


@pytest.mark.slow
@pytest.mark.skipif(not PYTHON.exists(), reason="`make ascend` makes its environment")
def test_a_decode_kernel_compiles_for_ascend_as_recorded(tmp_path):
    table = tmp_path / "rows.json"
    command = [PYTHON, "-m", "benchmarks.targets_ascend", "--only", "decode D128", "--json", table]

    subprocess.run(command, cwd=ROOT, check=True)

    rows = json.loads(table.read_text())
    assert rows == [row for row in recorded().rows if "decode D128" in row["kernel"]]
    plain = next(row for row in rows if row["kernel"] == "decode D128")
    assert 64 << 10 < plain["ub_bytes"] <= LIMITS["ub_bytes"]
