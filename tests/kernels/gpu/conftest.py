"""The Triton back end under its interpreter, and how its programs' order is changed."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from importlib.util import find_spec

import numpy as np
import pytest
import torch

if find_spec("triton") is None:  # there is no build of it for this machine
    collect_ignore_glob = ["test_*.py"]
else:
    os.environ["TRITON_INTERPRET"] = "1"  # kernels look at it when they are defined
    from triton.runtime.interpreter import interpreter_builder

    from hfx.kernels.gpu import TritonOperators, sample  # noqa: F401
    from hfx.kernels.gpu.device import Device

    del os.environ["TRITON_INTERPRET"]

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def interpreting(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only these tests see the interpreter: elsewhere the back end stays unable on the CPU."""
    monkeypatch.setenv("TRITON_INTERPRET", "1")


@pytest.fixture
def operators(interpreting: None) -> TritonOperators:
    """Small tiles on two cores."""
    return TritonOperators(CPU)


@pytest.fixture
def operators_on(interpreting: None) -> Callable[[str, int], TritonOperators]:
    """Operators with the tiles of an architecture and so many cores, interpreted."""

    def on(architecture: str, cores: int = 2) -> TritonOperators:
        return TritonOperators(CPU, Device(architecture, cores, is_interpreter=True))

    return on


@pytest.fixture(params=["forwards", "backwards", "shuffled"])
def program_order(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Programs of a launch run in that order."""
    set_index = interpreter_builder.set_grid_idx

    def permuted(x: int, y: int, z: int) -> None:
        columns = interpreter_builder.grid_dim[0]
        order = np.random.default_rng(columns).permutation(columns)
        column = {"forwards": x, "backwards": columns - 1 - x, "shuffled": int(order[x])}
        set_index(column[request.param], y, z)

    monkeypatch.setattr(interpreter_builder, "set_grid_idx", permuted)
    yield request.param
