"""The extension: its stub is up to date, and code for a newer processor stays out of older ones."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCES = sorted((ROOT / "kernels" / "cpu").glob("*_impl.hpp"))
FLAGS = ["-mavx512f", "-mavx512bw", "-mavx512vl", "-mavx512dq", "-mavx512bf16", "-mfma"]


def test_the_stub_is_what_the_extension_says(tmp_path):
    stub = tmp_path / "_cpu.pyi"

    command = [sys.executable, "-m", "nanobind.stubgen", "-q", "-m", "hfx.kernels._cpu", "-o", stub]
    subprocess.run(command, check=True)

    assert stub.read_text() == (ROOT / "kernels" / "_cpu.pyi").read_text(), (
        "run `python -m nanobind.stubgen -m hfx.kernels._cpu -o kernels/_cpu.pyi`"
    )


@pytest.mark.skipif(not shutil.which("g++"), reason="needs g++ to compile one object a source")
@pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.name)
def test_an_instruction_sets_object_shares_no_symbol_with_another(source, tmp_path):
    """A weak symbol outside its namespace (a std template, say) exists once in the module: if the
    linker kept the one compiled for AVX-512, an older processor would run it."""
    compiled = tmp_path / "object.o"
    command = ["g++", "-std=c++17", "-O0", "-c", "-DHFX_ISA=hfx_probe", *FLAGS, "-x", "c++"]
    subprocess.run([*command, source, "-o", compiled], check=True)

    symbols = subprocess.run(["nm", "-C", compiled], capture_output=True, text=True, check=True)

    defined = [line for line in symbols.stdout.splitlines() if re.search(r" [TWVuBD] ", line)]
    assert defined
    assert [line for line in defined if " hfx_probe::" not in line] == []
