"""The extension: its stub is up to date, and code for a newer processor stays out of older ones."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from hfx.kernels import _cpu
from hfx.kernels.cpu.build import fingerprint, warn_if_stale

ROOT = Path(__file__).parents[2]
SOURCES = sorted((ROOT / "kernels" / "cpu").glob("*_impl.hpp"))
AVX512 = ["-mavx512f", "-mavx512bw", "-mavx512vl", "-mavx512dq", "-mavx512bf16", "-mfma"]
FLAGS = ["-fno-exceptions", *AVX512]


def test_the_stub_is_what_the_extension_says(tmp_path):
    stub = tmp_path / "_cpu.pyi"

    command = [sys.executable, "-m", "nanobind.stubgen", "-q", "-m", "hfx.kernels._cpu", "-o", stub]
    subprocess.run(command, check=True)

    assert stub.read_text() == (ROOT / "kernels" / "_cpu.pyi").read_text(), (
        "run `python -m nanobind.stubgen -m hfx.kernels._cpu -o kernels/_cpu.pyi`"
    )


def test_the_extension_knows_the_sources_that_it_was_built_from():
    assert _cpu.sources() == fingerprint()
    assert not warn_if_stale()


def test_a_source_that_was_edited_since_the_build_is_told(tmp_path, caplog):
    folder = tmp_path / "cpu"
    shutil.copytree(ROOT / "kernels" / "cpu", folder)
    source = folder / "team.cpp"
    source.write_text(source.read_text() + "// changed\n")

    assert warn_if_stale(folder)
    assert "built from other sources" in caplog.text and "pip install -e ." in caplog.text
    (tmp_path / "wheel").mkdir()
    assert not warn_if_stale(tmp_path / "wheel")  # no sources: nothing to compare with


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


END_WHILE_COMPUTING = """
import threading
import numpy as np
import torch
from hfx.kernels import AttentionSpec, RaggedBatch, select
spec = AttentionSpec(8, 2, 128, 64, torch.bfloat16)
operators = select("cpu")
batch = RaggedBatch(np.array([0, 512]), np.array([2048]), np.arange(32)[None], 64)
cache = operators.allocate_cache(spec, 32)
cache.k.zero_(), cache.v.zero_()
work, q_TNH = operators.plan(spec, batch), torch.zeros(512, 8, 128, dtype=torch.bfloat16)
weights = operators.pack_linear(torch.zeros(3072, 576, dtype=torch.bfloat16))
x_TI = torch.zeros(512, 576, dtype=torch.bfloat16)
out, y_TO = torch.empty_like(q_TNH), torch.empty(512, 3072, dtype=torch.bfloat16)
started = threading.Event()
def compute():
    while True:
        {call}
        started.set()
threading.Thread(target=compute, daemon=True).start()
assert started.wait(60)
raise SystemExit("the end")
"""


@pytest.mark.parametrize(
    "call", ["operators.attend(q_TNH, cache, work, out)", "operators.linear(x_TI, weights, y_TO)"]
)
def test_the_interpreter_may_end_while_a_daemon_thread_is_in_a_kernel(call):
    program = END_WHILE_COMPUTING.replace("{call}", call)

    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=100
    )

    assert (done.returncode, done.stderr) == (1, "the end\n")
