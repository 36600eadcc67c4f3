"""Paged attention in Triton, interpreted, against float64: every feature and specialisation."""

from __future__ import annotations

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hfx.kernels import AttentionSpec

DTYPES = [torch.float32, torch.float16, torch.bfloat16]
STORED = [torch.int8, torch.float8_e4m3fn]
MIX = [(1, 1), (1, 16), (7, 7), (0, 5), (33, 41), (1, 70), (3, 33)]
DECODES = [(1, 1), (1, 17), (2, 40)]
PROMPTS = [(20, 20), (33, 47)]


def check(operators, spec, lens, step_of, close, **plan):
    """What attention answers, with NaN wherever nothing was written, is the truth."""
    step = step_of(operators, spec, lens)
    work = operators.plan(spec, step.batch, **plan)
    work.partial.fill_(torch.nan)
    work.stats.fill_(torch.nan)
    out_TNH = torch.full_like(step.q_TNH, torch.nan)

    operators.attend(step.q_TNH, step.cache, work, out_TNH, step.sinks_N)

    close(out_TNH, step.truth_TNH)
    return work, out_TNH


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("page", [16, 32, 256])
def test_a_mixed_batch_is_the_truth_at_every_page_size(operators, page, dtype, step_of, close):
    spec = AttentionSpec(6, 2, 64, page, dtype)

    work, _ = check(operators, spec, MIX, step_of, close)

    assert work.launch.addressing(spec) == ("gather" if work.launch.keys > page else "page")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("head_size", [64, 80, 96, 128, 192, 256])
def test_a_mixed_batch_is_the_truth_at_every_head_size(operators, head_size, dtype, step_of, close):
    spec = AttentionSpec(4, 2, head_size, 32, dtype)

    check(operators, spec, [(1, 40), (9, 35)], step_of, close)


@pytest.mark.parametrize(
    ("query_heads", "kv_heads"), [(3, 3), (9, 3), (4, 1), (16, 1), (20, 1), (40, 1)]
)
def test_every_query_head_reads_the_head_of_its_group(
    operators, query_heads, kv_heads, step_of, close
):
    spec = AttentionSpec(query_heads, kv_heads, 32, 16, torch.float32)

    check(operators, spec, [(1, 30), (5, 41)], step_of, close)


@pytest.mark.parametrize(
    ("lens", "classes"), [(DECODES, "decode"), (PROMPTS, "prompt"), (MIX, "mixed")]
)
def test_each_specialisation_is_the_truth(operators, lens, classes, step_of, close):
    work, _ = check(operators, AttentionSpec(4, 2, 64, 32, torch.float32), lens, step_of, close)

    assert (work.launch.large_rows > 0) == (classes != "decode")
    assert (work.launch.small_rows > 0) == (classes != "prompt")


@pytest.mark.parametrize("window", [1, 15, 33, 1000])
def test_a_window_hides_older_keys(operators, window, step_of, close):
    spec = AttentionSpec(4, 2, 64, 16, torch.float32, window=window)

    check(operators, spec, MIX, step_of, close)


@pytest.mark.parametrize("window", [0, 20])
@pytest.mark.parametrize(("softcap", "sinks"), [(0.0, True), (2.0, False), (30.0, True)])
def test_caps_and_sinks_are_the_truth(operators, window, softcap, sinks, step_of, close):
    spec = AttentionSpec(6, 2, 64, 16, torch.float32, window, softcap=softcap, sinks=sinks)

    check(operators, spec, MIX, step_of, close)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("stored", STORED, ids=str)
@pytest.mark.parametrize("scaling", ["token", "tensor"])
def test_quantised_caches_lose_only_what_rounding_loses(
    operators, dtype, stored, scaling, step_of, close
):
    spec = AttentionSpec(4, 2, 64, 32, dtype, cache_dtype=stored, cache_scaling=scaling)

    check(operators, spec, [(1, 33), (12, 40)], step_of, close)


@pytest.mark.parametrize("window", [0, 100])
def test_split_tiles_are_put_together_whatever_order_programs_run_in(
    program_order, operators_on, window, step_of, close
):
    spec = AttentionSpec(2, 1, 32, 32, torch.float32, window, sinks=True)
    lens = [(1, 180), (4, 90), (20, 20), (1, 3)]

    work, _ = check(operators_on("other", 4), spec, lens, step_of, close, split_tokens=32)

    assert work.slots > 6


def test_a_tile_is_split_where_programs_would_idle(operators_on, step_of, close):
    spec = AttentionSpec(4, 1, 32, 64, torch.float32)

    work, _ = check(operators_on("other", 4), spec, [(1, 600), (1, 3)], step_of, close)

    assert work.slots > 1


def test_large_tiles_are_split_across_the_diagonal(operators_on, step_of, close):
    spec = AttentionSpec(1, 1, 16, 256, torch.float32)
    operators = operators_on("other", 8)

    work, _ = check(operators, spec, [(32, 1030)], step_of, close)

    parts = work.items[work.items[:, 6] >= 0]
    assert (parts[:, 4] > parts[:, 3]).any()  # a part that the first rows see nothing of


def test_fixed_splits_give_the_same_bits_in_any_company(operators, step_of):
    spec = AttentionSpec(4, 2, 32, 16, torch.float32)
    alone = step_of(operators, spec, [(1, 150)])
    crowd = step_of(operators, spec, [(1, 150), (20, 20), (1, 7)])
    found = []
    for step in (alone, crowd):
        keys = step.batch.table_SC[0, :10]
        step.cache.k[keys] = torch.linspace(-1, 1, 16 * 2 * 32).view(16, 2, 32)
        step.cache.v[keys] = torch.linspace(-1, 1, 16 * 2 * 32).view(16, 2, 32).cos()
        step.q_TNH[0] = torch.linspace(-1, 1, 128).view(4, 32).sin()
        work = operators.plan(spec, step.batch, split_tokens=64)
        found.append(operators.attend(step.q_TNH, step.cache, work)[0])

    assert torch.equal(*found)


@pytest.mark.parametrize("head_size", [64, 128])
def test_loads_by_descriptor_are_the_truth(operators_on, head_size, step_of, close):
    operators = operators_on("sm_90")
    spec = AttentionSpec(4, 2, head_size, 64, torch.float16, sinks=True)

    work, _ = check(operators, spec, [(1, 70), (20, 90), (1, 5)], step_of, close)

    assert work.launch.addressing(spec) == "descriptor"


def test_queries_and_results_may_be_rows_of_wider_tensors(operators, step_of, close):
    spec = AttentionSpec(4, 2, 64, 16, torch.bfloat16)
    step = step_of(operators, spec, MIX)
    tokens = step.batch.tokens
    fused = torch.full((tokens, 1000), torch.nan, dtype=spec.dtype)
    q_TNH = fused[:, 100:356].view(tokens, 4, 64)
    out_TNH = fused[:, 400:656].view(tokens, 4, 64)
    q_TNH.copy_(step.q_TNH)

    result = operators.attend(q_TNH, step.cache, operators.plan(spec, step.batch), out=out_TNH)

    assert result is out_TNH
    close(out_TNH, step.truth_TNH)
    assert fused[:, 356:400].isnan().all()
    assert fused[:, 656:].isnan().all()


def test_a_step_without_tokens_is_empty(operators, step_of):
    spec = AttentionSpec(4, 2, 64, 16, torch.float32)
    step = step_of(operators, spec, [(0, 3), (0, 17)])

    out_TNH = operators.attend(step.q_TNH, step.cache, operators.plan(spec, step.batch))

    assert out_TNH.shape == (0, 4, 64)


def test_what_cannot_run_is_refused_with_the_reason(operators, operators_on):
    wide = AttentionSpec(4, 2, 512, 16, torch.float32)
    double = AttentionSpec(4, 2, 64, 16, torch.float64)
    float8 = AttentionSpec(4, 2, 64, 16, torch.float16, cache_dtype=torch.float8_e4m3fn)

    with pytest.raises(ValueError, match="from 16 to 256"):
        operators.allocate_cache(wide, 1)
    with pytest.raises(ValueError, match=r"not in torch\.float64"):
        operators.allocate_cache(double, 1)
    for old in ("sm_75", "sm_80", "sm_86", "sm_87"):
        with pytest.raises(ValueError, match=f"no float8_e4m3fn on {old}"):
            operators_on(old).allocate_cache(float8, 1)
    for new in ("sm_89", "sm_90", "sm_120", "gfx942"):
        assert operators_on(new).allocate_cache(float8, 1).k.dtype == torch.float8_e4m3fn


@settings(
    max_examples=8,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    lens=st.lists(
        st.tuples(st.integers(0, 20), st.integers(0, 40)).map(lambda x: (x[0], x[0] + x[1])),
        min_size=1,
        max_size=3,
    ).filter(lambda lens: any(context for _, context in lens)),
    group=st.integers(1, 16),
    page=st.sampled_from([16, 32, 64]),
    window=st.sampled_from([0, 0, 1, 17]),
    softcap=st.sampled_from([0.0, 0.0, 4.0]),
    sinks=st.booleans(),
    dtype=st.sampled_from(DTYPES),
    seed=st.integers(0, 2**16),
)
def test_any_ragged_batch_is_the_truth(
    operators, step_of, close, lens, group, page, window, softcap, sinks, dtype, seed
):
    spec = AttentionSpec(group, 1, 32, page, dtype, window, softcap=softcap, sinks=sinks)
    step = step_of(operators, spec, lens, seed)
    work = operators.plan(spec, step.batch)

    close(operators.attend(step.q_TNH, step.cache, work, sinks_N=step.sinks_N), step.truth_TNH)
