"""Triton's attention, interpreted, in any order of its programs, and lists for every architecture.

Shapes are small, since the interpreter is slow; lists cost nothing, so there are thousands of them.
"""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from triton.runtime.interpreter import interpreter_builder

from hfx.kernels import AttentionSpec, RaggedBatch, WorkList
from hfx.kernels.gpu.configs import KINDS, architectures, launch_of, small_rows
from hfx.kernels.gpu.work import kind_of, tiling_of

DTYPES = [torch.float32, torch.float16, torch.bfloat16]


@pytest.fixture
def order(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """Programs of every launch run in the order that `seed` draws, on all axes."""
    state = SimpleNamespace(seed=0)
    set_index = interpreter_builder.set_grid_idx

    def permuted(*program: int) -> None:
        grid = tuple(interpreter_builder.grid_dim)
        order = np.random.default_rng(state.seed).permutation(int(np.prod(grid)))
        moved = order[np.ravel_multi_index(program, grid)]
        set_index(*map(int, np.unravel_index(moved, grid)))

    monkeypatch.setattr(interpreter_builder, "set_grid_idx", permuted)
    return state


@settings(
    max_examples=8,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    lens=st.lists(
        st.tuples(
            st.one_of(st.just(0), st.just(1), st.integers(1, 40)),
            st.one_of(st.integers(1, 40), st.integers(1, 300)),
        ).map(lambda x: (x[0], max(x))),
        min_size=1,
        max_size=3,
    ),
    group=st.integers(1, 16),
    page=st.sampled_from([16, 32, 64]),
    window=st.sampled_from([0, 0, 1, 17, 500]),
    softcap=st.sampled_from([0.0, 4.0]),
    sinks=st.booleans(),
    dtype=st.sampled_from(DTYPES),
    stored=st.sampled_from([None, torch.int8, torch.float8_e4m3fn]),
    split_tokens=st.sampled_from([None, 64]),
    seed=st.integers(0, 2**16),
)
def test_any_batch_in_any_order_of_programs_is_the_truth(
    operators_on, order, step_of, close,
    lens, group, page, window, softcap, sinks, dtype, stored, split_tokens, seed,
):  # fmt: skip
    order.seed = seed
    operators = operators_on("other", 5)
    spec = AttentionSpec(
        group, 1, 32, page, dtype, window, softcap=softcap, sinks=sinks, cache_dtype=stored
    )
    step = step_of(operators, spec, lens, seed)
    work = operators.plan(spec, step.batch, split_tokens=split_tokens)
    work.partial.fill_(torch.nan)
    work.stats.fill_(torch.nan)
    out_TNH = torch.full_like(step.q_TNH, torch.nan)

    operators.attend(step.q_TNH, step.cache, work, out_TNH, step.sinks_N)

    close(out_TNH, step.truth_TNH)


@pytest.mark.parametrize("stored", [None, torch.int8, torch.float8_e4m3fn], ids=str)
@pytest.mark.parametrize(("dtype", "window"), [(torch.float16, 0), (torch.bfloat16, 70)], ids=str)
def test_loads_by_descriptor_are_the_truth_with_every_feature(
    operators_on, stored, dtype, window, step_of, close
):
    operators = operators_on("sm_100")
    spec = AttentionSpec(4, 2, 64, 64, dtype, window, softcap=9.0, sinks=True, cache_dtype=stored)
    step = step_of(operators, spec, [(1, 130), (12, 80), (0, 9), (1, 5)])
    work = operators.plan(spec, step.batch)

    close(operators.attend(step.q_TNH, step.cache, work, sinks_N=step.sinks_N), step.truth_TNH)
    assert work.launch.addressing(spec) == "descriptor"


def test_the_three_specialisations_agree(operators_on, step_of, close):
    operators = operators_on("sm_80")
    spec = AttentionSpec(4, 2, 64, 64, torch.float32, 50, sinks=True)
    step = step_of(operators, spec, [(1, 70), (20, 90), (1, 5), (33, 33)])
    starts, context_S = step.batch.query_starts, step.batch.context_lens_S
    mixed_TNH = operators.attend(
        step.q_TNH, step.cache, operators.plan(spec, step.batch), sinks_N=step.sinks_N
    )

    for rows, kind in (([0, 2], "decode"), ([1, 3], "prompt")):
        tokens = np.concatenate([np.arange(starts[s], starts[s + 1]) for s in rows])
        lens = step.batch.query_lens_S[rows]
        part = RaggedBatch(
            np.cumsum([0, *lens]), context_S[rows], step.batch.table_SC[rows], spec.page_tokens
        )
        assert kind_of(spec, part, small_rows(spec)) == kind
        alone_TNH = operators.attend(
            step.q_TNH[tokens], step.cache, operators.plan(spec, part), sinks_N=step.sinks_N
        )

        close(alone_TNH, step.truth_TNH[tokens])
        close(alone_TNH, mixed_TNH[tokens])


def test_a_tensors_scale_is_the_one_that_its_owner_set(operators, step_of):
    spec = AttentionSpec(
        4, 2, 32, 16, torch.float32, cache_dtype=torch.float8_e4m3fn, cache_scaling="tensor"
    )
    step = step_of(operators, spec, [(1, 40), (20, 25)])
    work = operators.plan(spec, step.batch)
    one = operators.attend(step.q_TNH, step.cache, work)

    step.cache.v_scale.fill_(4.0)
    scaled_values = operators.attend(step.q_TNH, step.cache, work)
    step.cache.k_scale.fill_(4.0)
    scaled_keys = operators.attend(step.q_TNH / 4, step.cache, work)

    torch.testing.assert_close(scaled_values, 4 * one, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(scaled_keys, scaled_values, rtol=1e-6, atol=1e-6)


def drawn(rng: np.random.Generator) -> tuple[AttentionSpec, RaggedBatch]:
    """A spec and a step, from a lonely decode to a crowd with prompts."""
    group = int(rng.choice([1, 2, 3, 4, 7, 8, 16]))
    kv_heads, page = int(rng.integers(1, 5)), int(rng.choice([16, 32, 64, 128, 256]))
    size, window = int(rng.choice([64, 80, 128, 256])), int(rng.choice([0, 0, 1, 50, 1000]))
    spec = AttentionSpec(group * kv_heads, kv_heads, size, page, torch.bfloat16, window)
    sequences = int(rng.integers(1, 12))
    query_S = np.where(rng.random(sequences) < 0.6, 1, rng.integers(0, 300, sequences))
    context_S = query_S + rng.integers(0, rng.choice([20, 500, 3000]), sequences)
    columns = max(1, -(-int(context_S.max()) // page))
    table_SC = np.arange(sequences * columns).reshape(sequences, columns)
    return spec, RaggedBatch(np.cumsum([0, *query_S]), context_S, table_SC, page)


def covers_once(work: WorkList) -> bool:
    """Whether every visible (row, key) is in exactly one tile: ranges of keys by query row."""
    batch, window = work.batch, work.spec.window
    edges: dict[int, list[tuple[int, int]]] = {row: [] for row in range(batch.tokens)}
    for _, row, queries, position, begin, end, _, _ in work.items.tolist():
        for i in range(queries):
            seen_from = max(begin, position + i + 1 - window if window else 0)
            seen_to = min(end, position + i + 1)
            if seen_from < seen_to:
                edges[row + i].append((seen_from, seen_to))
    for row, position in enumerate(batch.positions_T.tolist()):
        ranges = sorted(edges[row])
        at = max(0, position + 1 - window) if window else 0
        for begin, end in ranges:
            if begin != at:
                return False
            at = end
        if at != position + 1:
            return False
    return True


@pytest.mark.parametrize("architecture", [*architectures(), "other"])
def test_lists_of_every_architecture_cover_every_pair_once_and_end_together(architecture):
    rng = np.random.default_rng(0)

    for _ in range(250):
        spec, batch = drawn(rng)
        kind = kind_of(spec, batch, small_rows(spec))
        launch = launch_of(architecture, kind, spec)
        programs = int(rng.choice([1, 8, 60, 264])) * launch.programs_per_core
        work = WorkList.tiled(spec, batch, tiling_of(launch, programs, fixed=rng.random() < 0.3))

        assert kind in KINDS
        assert covers_once(work)
        busiest, least = work.makespan(programs)
        assert busiest <= 4 / 3 * least
        assert work.tile_rows <= launch.partial_rows
