"""Paged attention of ragged mixes against float64, every back end and instruction set."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hfx.kernels import AttentionSpec, Operators, RaggedBatch
from hfx.kernels.cpu import CpuOperators
from hfx.kernels.fallback import TorchOperators

DTYPES = [torch.float32, torch.bfloat16]


def mix(page: int) -> list[tuple[int, int]]:
    """Decodes beside chunks, with and without history, at every edge of a page."""
    return [
        (1, 1),
        (1, page),
        (page, page),
        (1, page + 1),
        (page - 1, page - 1),
        (page + 1, page + 1),
        (0, 5),
        (40, 3 * page + 7),
        (1, 5 * page - 1),
        (2, 2),
    ]


def check(operators: Operators, spec: AttentionSpec, lens, step_of, close) -> None:
    step = step_of(operators, spec, lens)

    out_TNH = operators.attend(step.q_TNH, step.cache, operators.plan(spec, step.batch))

    close(out_TNH, step.truth_TNH)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("page", [16, 32, 64, 128, 256])
def test_a_mixed_batch_is_the_truth_at_every_page_size(any_operators, page, dtype, step_of, close):
    check(any_operators, AttentionSpec(6, 2, 64, page, dtype), mix(page), step_of, close)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("head_size", [16, 80, 96, 128, 192, 256])
def test_a_mixed_batch_is_the_truth_at_every_head_size(operators, head_size, dtype, step_of, close):
    check(operators, AttentionSpec(4, 2, head_size, 32, dtype), mix(32), step_of, close)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("query_heads", "kv_heads"), [(3, 3), (9, 3), (4, 1), (16, 2), (16, 1)])
def test_every_query_head_reads_the_head_of_its_group(
    operators, query_heads, kv_heads, dtype, step_of, close
):
    check(operators, AttentionSpec(query_heads, kv_heads, 64, 16, dtype), mix(16), step_of, close)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("window", [1, 15, 16, 33, 1000])
def test_a_window_hides_older_keys(operators, window, dtype, step_of, close):
    spec = AttentionSpec(4, 2, 64, 16, dtype, window=window)

    check(operators, spec, mix(16), step_of, close)


def test_groups_with_more_heads_than_a_tile_has_rows_are_the_truth(cpu_operators, step_of, close):
    spec = AttentionSpec(112, 1, 64, 16, torch.bfloat16)

    check(cpu_operators, spec, [(5, 20), (1, 9)], step_of, close)


def test_a_scale_replaces_the_usual_one(operators, step_of, close):
    spec = AttentionSpec(4, 2, 64, 16, torch.float32, scale=0.25)

    check(operators, spec, mix(16), step_of, close)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("window", [0, 700])
def test_long_contexts_are_split_and_put_together_again(
    cpu_operators, dtype, window, step_of, close
):
    operators = CpuOperators(cpu_operators.isa, threads=8)
    spec = AttentionSpec(3, 1, 64, 64, dtype, window=window)
    step = step_of(operators, spec, [(1, 3001), (20, 2100), (1, 70)])
    work = operators.plan(spec, step.batch)

    out_TNH = operators.attend(step.q_TNH, step.cache, work)

    assert work.slots > 2 or window
    close(out_TNH, step.truth_TNH)


def test_a_plan_serves_every_layer(cpu_operators, step_of, close):
    spec = AttentionSpec(3, 1, 64, 64, torch.float32)
    layers = [step_of(cpu_operators, spec, [(1, 2500), (9, 30)], seed) for seed in (1, 1)]
    work = cpu_operators.plan(spec, layers[0].batch)

    for layer in layers:
        close(cpu_operators.attend(layer.q_TNH, layer.cache, work), layer.truth_TNH)


def test_queries_and_results_may_be_rows_of_wider_tensors(any_operators, step_of, close):
    spec = AttentionSpec(4, 2, 64, 16, torch.bfloat16)
    step = step_of(any_operators, spec, mix(16))
    tokens = step.batch.tokens
    fused = torch.full((tokens, 1000), torch.nan, dtype=spec.dtype)
    q_TNH = fused[:, 100:356].view(tokens, 4, 64)
    out_TNH = fused[:, 400:656].view(tokens, 4, 64)
    q_TNH.copy_(step.q_TNH)

    result = any_operators.attend(
        q_TNH, step.cache, any_operators.plan(spec, step.batch), out=out_TNH
    )

    assert result is out_TNH
    close(out_TNH, step.truth_TNH)
    assert fused[:, 356:400].isnan().all()
    assert fused[:, 656:].isnan().all()


def test_a_step_without_tokens_is_empty(any_operators, step_of):
    spec = AttentionSpec(4, 2, 64, 16, torch.float32)
    step = step_of(any_operators, spec, [(0, 3), (0, 17)])

    out_TNH = any_operators.attend(step.q_TNH, step.cache, any_operators.plan(spec, step.batch))

    assert out_TNH.shape == (0, 4, 64)


def test_plain_torch_is_exact_in_float64(step_of, close):
    operators = TorchOperators(torch.device("cpu"))
    spec = AttentionSpec(6, 2, 24, 16, torch.float64, window=40)

    check(operators, spec, [*mix(16), (300, 411)], step_of, close)


@settings(
    max_examples=40,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    lens=st.lists(
        st.tuples(st.integers(1, 40), st.integers(0, 140)).map(lambda x: (x[0], x[0] + x[1])),
        min_size=1,
        max_size=4,
    ),
    group=st.integers(1, 16),
    kv_heads=st.integers(1, 2),
    head_size=st.sampled_from([16, 64, 80]),
    page=st.sampled_from([16, 32, 64, 128]),
    window=st.sampled_from([0, 0, 1, 17, 64, 200]),
    dtype=st.sampled_from(DTYPES),
    softcap=st.sampled_from([0.0, 0.0, 1.0, 50.0]),
    sinks=st.booleans(),
    stored=st.sampled_from([None, None, torch.int8]),
    threads=st.sampled_from([1, 2, 5]),
    seed=st.integers(0, 2**16),
)
def test_any_ragged_batch_is_the_truth(
    cpu_operators,
    step_of,
    close,
    lens,
    group,
    kv_heads,
    head_size,
    page,
    window,
    dtype,
    softcap,
    sinks,
    stored,
    threads,
    seed,
):
    operators = CpuOperators(cpu_operators.isa, threads)
    heads = (group * kv_heads, kv_heads, head_size)
    spec = AttentionSpec(
        *heads, page, dtype, window, softcap=softcap, sinks=sinks, cache_dtype=stored
    )
    step = step_of(operators, spec, lens, seed)
    work = operators.plan(spec, step.batch)

    out_TNH = operators.attend(step.q_TNH, step.cache, work, sinks_N=step.sinks_N)

    close(out_TNH, step.truth_TNH)


@pytest.mark.parametrize("features", [{}, {"window": 700, "softcap": 5.0, "sinks": True}], ids=str)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_with_a_fixed_split_a_sequence_gets_the_same_bits_in_any_company(
    cpu_operators, dtype, features, step_of
):
    spec = AttentionSpec(8, 2, 64, 64, dtype, **features)
    lens = [(1, 2500), (3, 1300), (70, 1800), (1, 40), (300, 300)]
    step = step_of(cpu_operators, spec, lens)

    def attend(operators: CpuOperators, sequences: list[int], split: int) -> torch.Tensor:
        batch, rows = only(step.batch, sequences)
        work = operators.plan(spec, batch, split_tokens=split)
        assert work.slots > 0 or sequences == [2]  # a chunk alone isn't split
        return operators.attend(step.q_TNH[rows], step.cache, work, sinks_N=step.sinks_N)

    together = attend(cpu_operators, [0, 1, 2, 3, 4], 512)
    starts = step.batch.query_starts
    for sequences in ([0], [1, 3], [2], [0, 4]):
        alone = attend(CpuOperators(cpu_operators.isa, threads=7), sequences, 512)
        parts = [together[starts[s] : starts[s + 1]] for s in sequences]
        assert torch.equal(alone, torch.cat(parts))


def only(batch: RaggedBatch, sequences: list[int]) -> tuple[RaggedBatch, np.ndarray]:
    """Those sequences of a batch, and their rows."""
    lens_S = batch.query_lens_S[sequences]
    starts = np.concatenate([[0], np.cumsum(lens_S)])
    part = RaggedBatch(
        starts, batch.context_lens_S[sequences], batch.table_SC[sequences], batch.page_tokens
    )
    first = batch.query_starts[sequences]
    return part, np.concatenate([np.arange(a, a + n) for a, n in zip(first, lens_S, strict=True)])
