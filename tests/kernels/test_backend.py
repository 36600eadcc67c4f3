"""The registry: what is chosen, and what is said where nothing can be."""

from __future__ import annotations

import logging
import os
import subprocess
import sys

import pytest
import torch

from hfx.kernels import AttentionSpec, backends, select
from hfx.kernels import backend as registry
from hfx.kernels.cpu import ISAS, available_isas
from hfx.kernels.cpu import isa as isa_module


def test_the_processor_is_the_first_choice():
    assert [backend.name for backend in backends()] == [
        "cpu",
        "triton",
        "flash_attn",
        "flashinfer",
        "fused_infer",
        "triton_ascend",
        "torch",
        "reference",
    ]
    assert select(dtype=torch.bfloat16).name == "cpu"
    assert select(dtype=torch.float32).name == "cpu"


def test_plain_torch_answers_where_the_first_cannot():
    assert select(dtype=torch.float16).name == "torch"
    odd = AttentionSpec(4, 2, 20, 16, torch.bfloat16)
    assert select(spec=odd).name == "torch"


def test_a_name_is_obeyed():
    assert select("torch").name == "torch"
    assert select("reference").name == "reference"


def test_an_unknown_name_lists_what_there_is():
    with pytest.raises(ValueError, match=r"'cuda' does not exist: there are cpu, tri.*, torch"):
        select("cuda")


def test_a_named_back_end_that_cannot_run_says_why_and_what_else_there_is():
    with pytest.raises(
        RuntimeError, match=r"cpu \(computes in .*not in torch.float16\).*torch \(able"
    ):
        select("cpu", dtype=torch.float16)
    with pytest.raises(RuntimeError, match=r"cpu \(runs on cpu, not on meta\)"):
        select("cpu", device="meta")
    odd = AttentionSpec(4, 2, 20, 16, torch.bfloat16)
    with pytest.raises(RuntimeError, match="multiple of 16, not 20"):
        select("cpu", spec=odd)


def test_a_cache_of_a_shape_that_cannot_run_is_refused():
    odd = AttentionSpec(4, 2, 20, 16, torch.bfloat16)

    with pytest.raises(ValueError, match="multiple of 16, not 20: take 'torch'"):
        select("cpu").allocate_cache(odd, 1)


def test_the_choice_is_logged_once(caplog):
    registry._log_choice.cache_clear()

    with caplog.at_level(logging.INFO, logger=registry.__name__):
        select("torch", dtype=torch.float16)
        select("torch", dtype=torch.float16)
        select(dtype=torch.float64)

    assert [record.getMessage() for record in caplog.records] == [
        "kernels of back end 'torch' on cpu in torch.float16",
        "kernels of back end 'torch' on cpu in torch.float64; not 'cpu', which computes in "
        "torch.bfloat16, torch.float32, not in torch.float64",
    ]


@pytest.mark.parametrize("isa", available_isas())
def test_the_environment_can_force_an_instruction_set(isa):
    script = "from hfx.kernels import select; print(select('cpu').isa)"

    answer = subprocess.run(
        [sys.executable, "-c", script],
        env=os.environ | {"HFX_CPU_ISA": isa},
        capture_output=True,
        text=True,
        check=True,
    )

    assert answer.stdout.strip() == isa


def test_an_old_processor_falls_back_to_plain_torch(monkeypatch):
    monkeypatch.setattr(isa_module, "available_isas", lambda: ())

    assert select().name == "torch"
    with pytest.raises(RuntimeError, match=r"cpu \(needs a processor with AVX2 and FMA"):
        select("cpu")


def test_threads_are_those_that_torch_is_set_to():
    before = torch.get_num_threads()
    torch.set_num_threads(before + 1)
    try:
        assert select("cpu").threads == before + 1
    finally:
        torch.set_num_threads(before)


def test_an_instruction_set_that_is_missing_or_unknown_is_named(monkeypatch):
    monkeypatch.setattr(isa_module, "available_isas", lambda: ISAS[:1])

    with pytest.raises(ImportError, match="cannot run avx512: it has avx2"):
        isa_module.level_of("avx512")
    with pytest.raises(ValueError, match="'sse2' is none of avx2"):
        isa_module.level_of("sse2")


def test_naming_the_package_does_not_import_torch():
    script = "import sys, hfx.kernels; sys.exit('torch' in sys.modules)"

    assert subprocess.run([sys.executable, "-c", script]).returncode == 0


def test_a_back_end_for_gpus_says_what_it_misses(monkeypatch):
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    with pytest.raises(RuntimeError, match=r"triton \(runs on cpu only under Triton's interpreter"):
        select("triton")

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(RuntimeError, match=r"triton \(finds no GPU"):
        select("triton", device="cuda")

    monkeypatch.setenv("TRITON_INTERPRET", "1")
    monkeypatch.setattr(registry, "find_spec", lambda name: None)
    with pytest.raises(RuntimeError, match=r"triton \(needs the package triton"):
        select("triton")


def test_a_back_end_that_is_only_emulated_somewhere_is_not_chosen_there_unnamed(monkeypatch):
    monkeypatch.setenv("TRITON_INTERPRET", "1")

    assert select(dtype=torch.float16).name == "torch"
