"""The cases of `benchmarks.attention` in pytest-benchmark's form: ours beside SDPA."""

from __future__ import annotations

from collections.abc import Callable
from itertools import cycle

import pytest
import torch

from benchmarks.attention_cases import CASES, FEATURES, Case, Inputs
from benchmarks.attention_peers import call_of
from benchmarks.timing import settle
from hfx.kernels import select


def ours(inputs: Inputs) -> Callable[[], object]:
    """Correct first, then timed on caches that come from memory."""
    operators = select("cpu")
    inputs.error(operators)
    turn = cycle(inputs.caches(operators))
    work, out = operators.plan(inputs.spec, inputs.batch), torch.empty_like(inputs.q_TNH)
    return lambda: operators.attend(inputs.q_TNH, next(turn), work, out, inputs.sinks_N)


@pytest.mark.parametrize("way", ["cpu", "sdpa"])
@pytest.mark.parametrize("case", [*CASES, *FEATURES], ids=lambda case: case.name)
def test_attention(benchmark, case: Case, way: str):
    inputs = Inputs.of(case)
    call = ours(inputs) if way == "cpu" else call_of(way, inputs)
    if isinstance(call, str):
        pytest.skip(call)
    benchmark.group = f"attention: {case.name}"
    benchmark.extra_info |= {"way": way, "threads": torch.get_num_threads()}
    settle(call)

    benchmark(call)
