"""Attention over the whole range of shapes that is promised, against float64.

Queries of 1 to 300 tokens and none, contexts up to 3,000, groups of 1 to 16, windows, caps, sinks,
scattered pages of a cache full of NaN, results into NaN. Tolerances are those of `conftest.py`.
"""

from __future__ import annotations

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hfx.kernels import AttentionSpec
from hfx.kernels.cpu import CpuOperators
from hfx.kernels.fallback import TorchOperators
from hfx.kernels.reference import ReferenceOperators

QUERIES = st.one_of(st.just(0), st.just(1), st.integers(1, 8), st.integers(1, 300))
CONTEXTS = st.one_of(st.integers(1, 64), st.integers(1, 700), st.integers(1, 3000))
LENS = st.lists(
    st.tuples(QUERIES, CONTEXTS).map(lambda x: (x[0], max(x))), min_size=1, max_size=3
).filter(lambda lens: sum(query * context for query, context in lens) < 200_000)
PAGES = st.sampled_from([16, 32, 64, 128, 256])
FEATURES = st.fixed_dictionaries(
    {
        "window": st.one_of(st.just(0), st.integers(1, 80), st.integers(1, 4000)),
        "softcap": st.sampled_from([0.0, 0.0, 1.0, 50.0]),
        "sinks": st.booleans(),
    }
)
DTYPES = st.sampled_from([torch.float32, torch.bfloat16])


def check(operators, lens, group, page, features, dtype, cached, seed, step_of, close):
    """What attention answers is the truth, and nothing else of the result was touched."""
    spec = AttentionSpec(group, 1, 32, page, dtype, cache_dtype=cached, **features)
    step = step_of(operators, spec, lens, seed)
    wide_TNH = torch.full((len(step.q_TNH) + 2, *step.q_TNH.shape[1:]), torch.nan, dtype=dtype)

    out_TNH = operators.attend(
        step.q_TNH, step.cache, operators.plan(spec, step.batch), wide_TNH[1:-1], step.sinks_N
    )

    close(out_TNH, step.truth_TNH)
    assert wide_TNH[0].isnan().all() and wide_TNH[-1].isnan().all()


@settings(
    max_examples=250,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    LENS,
    st.integers(1, 16),
    PAGES,
    FEATURES,
    DTYPES,
    st.sampled_from([None, None, torch.int8]),
    st.integers(0, 2**16),
    st.sampled_from([1, 2, 7]),
)
def test_the_cpu_is_right_over_the_whole_range(
    cpu_operators, step_of, close, lens, group, page, features, dtype, cached, seed, threads
):
    operators = CpuOperators(cpu_operators.isa, threads)

    check(operators, lens, group, page, features, dtype, cached, seed, step_of, close)


@pytest.mark.parametrize(
    "operators", [TorchOperators(torch.device("cpu")), ReferenceOperators()], ids=lambda x: x.name
)
@settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(LENS, st.integers(1, 16), PAGES, FEATURES, DTYPES, st.integers(0, 2**16))
def test_plain_torch_and_the_reference_are_right_over_the_whole_range(
    operators, step_of, close, lens, group, page, features, dtype, seed
):
    check(operators, lens, group, page, features, dtype, None, seed, step_of, close)
