"""Soft-cap, sinks and quantised caches against float64, every back end that has them."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import hfx.kernels as kernels
from hfx.kernels import AttentionSpec, Operators
from hfx.kernels.cpu import CpuOperators

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


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_parts_of_a_split_context_count_a_sink_once(cpu_operators, dtype, step_of, close):
    operators = CpuOperators(cpu_operators.isa, threads=8)
    spec = AttentionSpec(6, 2, 64, 64, dtype, 2000, softcap=3.0, sinks=True, cache_dtype=torch.int8)
    step = step_of(operators, spec, [(1, 3001), (4, 2100), (1, 70)])
    work = operators.plan(spec, step.batch)

    assert work.slots > 2
    close(operators.attend(step.q_TNH, step.cache, work, sinks_N=step.sinks_N), step.truth_TNH)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("scaling", ["token", "tensor"])
def test_int8_caches_hold_the_same_bits_on_every_back_end(cpu_operators, dtype, scaling):
    spec = AttentionSpec(6, 2, 80, 16, dtype, cache_dtype=torch.int8, cache_scaling=scaling)
    torch.manual_seed(0)
    k_TMH, v_TMH = (torch.randn(2, 40, 2, 80) * 30).to(dtype)
    k_TMH[3], v_TMH[4, 1] = 0.0, 0.0
    caches = []
    for operators in (cpu_operators, kernels.select("torch")):
        cache = operators.allocate_cache(spec, 3)
        for x in (cache.k, cache.v):
            x.fill_(0)
        operators.kv_write(cache, k_TMH, v_TMH, np.arange(5, 45))
        caches.append(cache)
    ours, plain = caches

    k, v = ours.k, ours.v
    if dtype == torch.bfloat16:  # pairs: [pages, M, H / 2, tokens, 2], [pages, M, tokens / 2, H, 2]
        k, v = k.transpose(2, 3).flatten(3), v.transpose(3, 4).flatten(2, 3)
    else:
        k = k.transpose(2, 3)
    assert torch.equal(k.transpose(1, 2), plain.k)
    assert torch.equal(v.transpose(1, 2), plain.v)
    if scaling == "token":
        assert torch.equal(ours.k_scale.transpose(1, 2), plain.k_scale)
        assert torch.equal(ours.v_scale.transpose(1, 2), plain.v_scale)
