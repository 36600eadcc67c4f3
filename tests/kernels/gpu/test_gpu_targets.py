"""Kernels are compiled for GPUs that aren't there, and take no more of them than is allowed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import targets
from benchmarks.target_compiler import Resources
from hfx.kernels.gpu.configs import KINDS, architectures, launch_of

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
    assert {row["target"] for row in rows} == set(targets.TARGETS)
    assert [row for row in rows if not row["ok"]] == []


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_every_kernel_fits_every_target(tmp_path):
    rows = compiled(tmp_path)

    assert len(rows) == len(list(targets.cases())) <= 150
    assert [row for row in rows if not row["ok"]] == []


def case_called(target: str, name: str) -> targets.Case:
    return next(case for case in targets.cases() if (case.target, case.name) == (target, name))


def objection(case: targets.Case, **changes: object) -> str | None:
    """What the table says of a kernel that takes this."""
    fine = dict(
        registers=100, spill_bytes=0, shared_bytes=50_000, ctas_per_sm=4, assembly="UTMALDG HGMMA"
    )
    return targets._objection(case, Resources(**(fine | changes)))


def test_an_allowance_must_be_what_is_needed_and_no_more(monkeypatch):
    case = case_called("sm_90", "decode D128")
    allowances = {("decode D128", "sm_90"): {"spill_bytes": 16, "reason": "a reason"}}
    monkeypatch.setattr(targets, "_allowances", lambda: allowances)

    assert objection(case, spill_bytes=16) is None
    assert "16 bytes are allowed" in str(objection(case, spill_bytes=24))
    assert "more than it needs" in str(objection(case, spill_bytes=8))


def test_what_a_kernel_takes_too_much_of_or_lacks_is_named():
    prompt, decode = (case_called("sm_90", f"{kind} D128") for kind in ("prompt", "decode"))

    assert objection(prompt) is None
    assert objection(prompt, assembly="UTMALDG HMMA") == "has no HGMMA"
    assert "shared bytes" in str(objection(prompt, shared_bytes=240_000))
    assert objection(prompt, ctas_per_sm=0) == "1 programs are launched a core"
    assert "bytes in flight" in str(objection(decode, shared_bytes=10_000))


def test_allowances_have_reasons_and_cases():
    for entry in targets._allowances().values():
        assert len(entry["reason"]) > 20, entry
        assert case_called(entry["target"], entry["kernel"]), entry


def test_every_architecture_has_tiles_and_others_get_small_ones():
    spec = case_called("sm_90", "mixed D128").spec
    assert spec is not None
    for name in ("sm_80", "sm_86", "sm_89", "sm_90", "sm_100", "sm_120", "gfx942", "gfx950"):
        assert name in architectures()

    for kind in KINDS:
        launch = launch_of("sm_75", kind, spec)
        assert launch.large_rows * launch.large_keys <= 32 * 32
        assert (launch.large_rows > 0, launch.small_rows > 0) == (
            kind != "decode",
            kind != "prompt",
        )
