"""Kernels are compiled for GPUs that aren't there, and take no more of them than is allowed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from benchmarks import targets
from benchmarks.target_compiler import Resources
from hfx.kernels.gpu.configs import KINDS, architectures, launch_of

NAMES = [
    "kernel", "target", "registers", "spill_bytes", "shared_bytes", "ctas_per_sm", "ub_bytes",
    "reason", "ok",
]  # fmt: skip
SPILLS_ALLOWED = 0  # bytes, of all kernels together: lower it with every one that goes
ROOT = Path(__file__).parents[3]


def compiled(folder: Path, *options: str) -> list[dict[str, object]]:
    """The table's rows, by a process that compiles instead of interpreting."""
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    table = folder / "rows.json"
    subprocess.run(
        [sys.executable, "-m", "benchmarks.targets", "--json", table, *options],
        env=environment | {"TRITON_CACHE_DIR": str(folder / "cache")},
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        timeout=1200,
    )
    rows: list[dict[str, object]] = json.loads(table.read_text())
    return rows


def test_the_commonest_kernels_fit_every_target(tmp_path):
    rows = compiled(tmp_path, "--ci")

    assert len(rows) == len(targets.ci_cases()) <= 25
    assert {row["target"] for row in rows} == {*targets.TARGETS, *targets.SMALLER}
    assert list(rows[0])[:9] == NAMES
    assert [row for row in rows if not row["ok"]] == []


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_every_kernel_fits_every_target(tmp_path):
    rows = compiled(tmp_path)

    mine = [row for row in rows if not str(row["target"]).startswith("Ascend")]  # recorded
    assert len(mine) == len(list(targets.cases())) <= 150
    assert [row for row in rows if not row["ok"]] == []


def case_called(target: str, name: str) -> targets.Case:
    return next(case for case in targets.cases() if (case.target, case.name) == (target, name))


def objection(case: targets.Case, **changes: object) -> str | None:
    """What the table says of a kernel that takes this."""
    fine = dict(
        registers=100,
        spill_bytes=0,
        shared_bytes=50_000,
        ctas_per_sm=4,
        instructions=Counter(["UTMALDG", "HGMMA", "HMMA"]),
        rings=((1, 4), (2, 64 * 128 * 2)),
    )
    return targets._objection(case, Resources(**(fine | changes)))


def test_an_allowance_must_be_what_is_needed_and_no_more(monkeypatch):
    case = case_called("sm_90", "decode D128")
    allowances = {("decode D128", "sm_90"): {"spill_bytes": 16, "reason": "a reason"}}
    monkeypatch.setattr(targets, "_allowances", lambda: allowances)

    assert objection(case, spill_bytes=16) is None
    assert "16 bytes are allowed" in str(objection(case, spill_bytes=24))
    assert "tighten it to 8" in str(objection(case, spill_bytes=8))


def test_what_a_kernel_takes_too_much_of_or_lacks_is_named():
    prompt, decode = (case_called("sm_90", f"{kind} D128") for kind in ("prompt", "decode"))

    assert objection(prompt) is None
    assert objection(prompt, instructions=Counter(["UTMALDG"])) == "has no HGMMA"
    assert objection(decode, instructions=Counter(["HMMA"])) == "has no UTMALDG"
    assert "shared bytes" in str(objection(prompt, shared_bytes=240_000))
    assert objection(prompt, ctas_per_sm=0) == "1 programs are launched a core"


def test_a_decode_on_hopper_must_load_ahead_of_what_it_computes():
    decode = case_called("sm_90", "decode D128")
    block = 64 * 128 * 2

    assert objection(decode) is None
    assert objection(decode, rings=((1, block),)) == "keeps 0 bytes in flight of 65536"
    assert objection(decode, rings=((3, block), (1, block))) == "keeps 0 bytes in flight of 65536"
    assert objection(decode, rings=((3, block // 2),)) == "keeps 0 bytes in flight of 65536"


@pytest.mark.parametrize(
    ("target", "name", "expected"),
    [
        ("sm_90", "prompt D128", ["HGMMA", "UTMALDG"]),
        ("sm_90", "mixed D128", ["HGMMA", "HMMA", "UTMALDG"]),
        ("sm_100", "prompt D128", ["UTCHMMA", "UTMALDG"]),
        ("sm_90", "decode D128 page 16", ["HMMA", "LDGSTS"]),
        ("sm_80", "prompt D128", ["HMMA", "LDGSTS"]),
        ("sm_120", "mixed D128", ["HMMA", "LDGSTS"]),
        ("gfx942", "decode D128", ["v_mfma"]),
        ("gfx950", "prompt D128", ["v_mfma"]),
        ("sm_80", "rms_norm", []),
    ],
)
def test_kernels_are_held_to_what_their_gpu_is_fast_by(target, name, expected):
    assert targets._expected(case_called(target, name)) == expected


def test_allowances_have_reasons_and_cases_and_only_ever_shrink():
    for entry in targets._allowances().values():
        assert len(entry["reason"]) > 20, entry
        assert case_called(entry["target"], entry["kernel"]), entry

    assert sum(e["spill_bytes"] for e in targets._allowances().values()) == SPILLS_ALLOWED


def test_every_architecture_has_tiles_and_others_get_small_ones():
    spec = case_called("sm_90", "mixed D128").spec
    assert spec is not None
    for name in ("sm_80", "sm_86", "sm_89", "sm_90", "sm_100", "sm_120", "gfx942", "gfx950"):
        assert name in architectures()

    for kind in KINDS:
        assert launch_of("gfx1100", kind, spec) == launch_of("sm_75", kind, spec)
        launch = launch_of("sm_75", kind, spec)
        assert launch.large_rows * launch.large_keys <= 32 * 32
        assert (launch.large_rows > 0, launch.small_rows > 0) == (
            kind != "decode",
            kind != "prompt",
        )
