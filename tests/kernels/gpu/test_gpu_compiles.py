"""What a GPU would have to compile for the interpreter's launches, by Triton's own rules."""

from __future__ import annotations

import inspect
from types import SimpleNamespace

import pytest
import torch
from triton import knobs
from triton.runtime.jit import JITFunction

from hfx.kernels.gpu import compiles


@pytest.fixture
def heard(interpreting):
    names = []
    watch = compiles.watch(names.append)
    yield names
    watch.close()


def test_a_launch_counts_once_for_each_type_constant_and_stride_that_it_is_compiled_for(
    operators, heard
):
    weight_D = torch.ones(64)

    for rows in (3, 1, 7):
        operators.rms_norm(torch.randn(rows, 64), weight_D, 1e-5)
    operators.rms_norm(torch.randn(3, 64), weight_D, 1e-6)
    assert len(heard) == 1

    operators.rms_norm(torch.randn(3, 70)[:, :64], weight_D, 1e-5)  # rows 70 apart: no 16 bytes
    operators.rms_norm(torch.randn(3, 64, dtype=torch.float16), weight_D, 1e-5)
    operators.rms_norm(torch.randn(3, 32), weight_D[:32], 1e-5)
    operators.rms_norm(torch.randn(3, 64), weight_D, 1e-5, residual=torch.zeros(3, 64))
    assert len(heard) == 5
    assert all(name.startswith("rms_norm[") for name in heard)


def test_a_closed_watch_hears_nothing(operators):
    names = []
    watch = compiles.watch(names.append)
    watch.close()

    operators.silu_mul(torch.randn(2, 8))

    assert names == []


def test_every_kernel_that_is_launched_is_watched():
    launched = {"kv_write", "ragged_attention", "reduce_splits", "rms_norm", "rope", "silu_mul"}

    assert launched | {"sample_rows"} <= {kernel.fn.__name__ for kernel in compiles.kernels()}


def test_without_the_interpreter_tritons_hook_tells_and_calls_the_one_before(monkeypatch):
    """The hook that Triton calls once it has compiled, called here in its place."""
    monkeypatch.setenv("TRITON_INTERPRET", "0")
    others, names = [], []
    monkeypatch.setattr(knobs.runtime, "jit_post_compile_hook", lambda **told: others.append(told))

    assert compiles.watch(names.append) is None
    knobs.runtime.jit_post_compile_hook(repr="kernel[...]", key="k", fn=SimpleNamespace())

    assert names == ["kernel[...]"]
    assert [told["repr"] for told in others] == ["kernel[...]"]
    assert "jit_post_compile_hook" in inspect.getsource(JITFunction._do_compile)
