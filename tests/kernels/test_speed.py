"""The cases of `benchmarks.attention` as pytest-benchmark's: `pytest --benchmark-only -m slow`."""

from __future__ import annotations

from itertools import cycle

import pytest

from benchmarks.attention_cases import CASES, Case, Inputs
from hfx.kernels import select


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_attention_is_the_truth_before_it_is_timed(benchmark, case: Case):
    operators, inputs = select("cpu"), Inputs.of(case)
    assert inputs.error(operators) < 2e-2
    turn = cycle([inputs.cache(operators) for _ in range(2)])
    work = operators.plan(inputs.spec, inputs.batch)

    benchmark(lambda: operators.attend(inputs.q_TNH, next(turn), work))
