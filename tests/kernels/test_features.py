"""Soft-cap, sinks and quantised caches against float64, every back end that has them."""

from __future__ import annotations

import pytest
import torch

import hfx.kernels as kernels
from hfx.kernels import AttentionSpec, Operators

MIX = [(1, 1), (1, 16), (7, 7), (0, 5), (40, 61), (1, 90), (3, 33)]
DTYPES = [torch.float32, torch.bfloat16]
STORED = [torch.int8, torch.float8_e4m3fn]


def check(operators: Operators, spec: AttentionSpec, step_of, close) -> None:
    objection = operators.objection(spec)
    if objection is not None:
        pytest.skip(objection)
    step = step_of(operators, spec, MIX)
    work = operators.plan(spec, step.batch)

    close(operators.attend(step.q_TNH, step.cache, work, sinks_N=step.sinks_N), step.truth_TNH)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("window", [0, 20])
@pytest.mark.parametrize(("softcap", "sinks"), [(0.0, True), (2.0, False), (30.0, True)])
def test_caps_and_sinks_are_the_truth(any_operators, dtype, window, softcap, sinks, step_of, close):
    spec = AttentionSpec(6, 2, 64, 16, dtype, window, softcap=softcap, sinks=sinks)

    check(any_operators, spec, step_of, close)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("stored", STORED, ids=str)
@pytest.mark.parametrize("scaling", ["token", "tensor"])
def test_quantised_caches_lose_only_what_rounding_loses(
    any_operators, dtype, stored, scaling, step_of, close
):
    spec = AttentionSpec(6, 2, 64, 16, dtype, cache_dtype=stored, cache_scaling=scaling)

    check(any_operators, spec, step_of, close)


def test_a_scale_for_the_whole_cache_is_the_owners(step_of, close):
    spec = AttentionSpec(
        4, 2, 64, 16, torch.float32, cache_dtype=torch.float8_e4m3fn, cache_scaling="tensor"
    )
    operators = kernels.select("torch")
    cache = operators.allocate_cache(spec, 1)
    assert cache.k_scale is not None
    cache.k_scale.fill_(100.0)
    k_TMH = torch.tensor([50.0, 1e9, -1e9]).expand(2, 64, 3).permute(2, 0, 1).contiguous()

    operators.kv_write(cache, k_TMH, k_TMH, torch.tensor([3, 4, 5]).numpy())

    written = cache.k[0, 3:6, 0, 0].float()
    assert written.tolist() == [0.5, 448.0, -448.0]  # what is too large saturates


def test_sinks_are_given_where_the_spec_has_them_and_only_there(step_of):
    operators = kernels.select("torch")
    for has_sinks, given in ((True, None), (False, torch.zeros(4))):
        spec = AttentionSpec(4, 2, 64, 16, torch.float32, sinks=has_sinks)
        step = step_of(operators, spec, [(1, 3)])
        work = operators.plan(spec, step.batch)

        with pytest.raises(ValueError, match="sinks_N is"):
            kernels.attend(step.q_TNH, step.cache, work, sinks_N=given)

    spec = AttentionSpec(4, 2, 64, 16, torch.float32, sinks=True)
    step = step_of(operators, spec, [(1, 3)])
    with pytest.raises(ValueError, match=r"sinks_N is \[3\]"):
        kernels.attend(
            step.q_TNH, step.cache, operators.plan(spec, step.batch), sinks_N=torch.zeros(3)
        )
