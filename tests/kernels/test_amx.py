"""AMX, which a processor need not have: its loops on emulated tiles, the code of its object."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from hfx.kernels.cpu import available_isas

HERE = Path(__file__).parent
SOURCES = HERE.parents[1] / "kernels" / "cpu"
AVX512 = ["-mavx512f", "-mavx512bw", "-mavx512vl", "-mavx512dq", "-mavx512bf16", "-mfma"]

pytestmark = pytest.mark.skipif(not shutil.which("g++"), reason="needs g++")


def compile_with(*arguments: object) -> None:
    command = ["g++", "-std=c++17", "-O1", f"-I{SOURCES}", *AVX512, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.skipif("avx512bf16" not in available_isas(), reason="runs beside AVX512-BF16 vectors")
def test_products_by_emulated_tiles_are_plain_sums_at_every_edge(tmp_path):
    compile_with(HERE / "amx_probe.cpp", "-o", tmp_path / "probe")

    done = subprocess.run([tmp_path / "probe"], capture_output=True, text=True, timeout=60)

    assert (done.returncode, done.stdout) == (0, "")


def test_the_object_for_amx_multiplies_in_tiles(tmp_path):
    source, assembly = SOURCES / "attend_amx.cpp", tmp_path / "amx.s"
    compile_with("-mamx-tile", "-mamx-bf16", "-S", source, "-o", assembly)

    assert assembly.read_text().count("tdpbf16ps") >= 4
