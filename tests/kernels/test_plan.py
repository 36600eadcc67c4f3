"""The work list covers what attention must see, once, and shares it out evenly."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hfx.kernels import AttentionSpec, RaggedBatch, WorkList
from hfx.kernels.plan import FIRST, LARGE, Capacity, Tiling
from hfx.request import Mix

LENS = st.lists(
    st.tuples(st.integers(0, 150), st.integers(0, 900)).map(lambda x: (x[0], x[0] + x[1])),
    min_size=1,
    max_size=8,
)
SPECS = st.builds(
    lambda group, kv_heads, page, window: AttentionSpec(
        group * kv_heads, kv_heads, 64, page, torch.bfloat16, window
    ),
    group=st.sampled_from([1, 2, 3, 7, 16]),
    kv_heads=st.integers(1, 3),
    page=st.sampled_from([16, 32, 64, 128]),
    window=st.sampled_from([0, 0, 1, 50, 300]),
)
TILINGS = st.builds(
    Tiling,
    small_rows=st.sampled_from([4, 16]),
    large_rows=st.sampled_from([32, 96]),
    programs=st.integers(1, 20),
    split_tokens=st.sampled_from([128, 512]),
    fixed=st.booleans(),
)


def batch_of(spec: AttentionSpec, lens: list[tuple[int, int]]) -> RaggedBatch:
    query_lens_S, context_lens_S = np.array(lens).T
    columns = -(-int(context_lens_S.max()) // spec.page_tokens)
    table_SC = np.arange(len(lens) * columns).reshape(len(lens), columns)
    starts = np.concatenate([[0], np.cumsum(query_lens_S)])
    return RaggedBatch(starts, context_lens_S, table_SC, spec.page_tokens)


def seen(work: WorkList) -> dict[int, np.ndarray]:
    """How often each (query row, key) pair of a sequence lies in a tile and is visible."""
    batch, window = work.batch, work.spec.window
    counts = {}
    for sequence, context in enumerate(batch.context_lens_S):
        counts[sequence] = np.zeros((batch.query_lens_S[sequence], context), int)
    for sequence, row, queries, position, begin, end, _, _ in work.items:
        first = row - batch.query_starts[sequence]
        positions = position + np.arange(queries)[:, None]
        keys = np.arange(begin, end)
        visible = keys <= positions
        if window:
            visible &= keys > positions - window
        counts[sequence][first : first + queries, begin:end] += visible
    return counts


@settings(deadline=None, max_examples=150)
@given(LENS, SPECS, TILINGS)
def test_every_visible_pair_of_row_and_key_is_covered_once(lens, spec, tiling):
    work = WorkList.tiled(spec, batch_of(spec, lens), tiling)

    for (queries, context), counts in zip(lens, seen(work).values(), strict=True):
        position = np.arange(context - queries, context)[:, None]
        expected = np.arange(context) <= position
        if spec.window:
            expected &= np.arange(context) > position - spec.window
        np.testing.assert_array_equal(counts, expected)


@settings(deadline=None, max_examples=150)
@given(LENS, SPECS, TILINGS)
def test_parts_of_a_split_tile_have_consecutive_slots_and_one_reduction(lens, spec, tiling):
    work = WorkList.tiled(spec, batch_of(spec, lens), tiling)

    slotted = work.items[work.items[:, 6] >= 0]
    assert sorted(slotted[:, 6]) == list(range(work.slots))
    reduced = 0
    for row, queries, first, slots in work.reductions:
        assert slots > 1
        parts = slotted[(slotted[:, 6] >= first) & (slotted[:, 6] < first + slots)]
        parts = parts[np.argsort(parts[:, 6])]
        assert (parts[:, 1] == row).all()
        assert (parts[:, 2] == queries).all()
        assert (parts[1:, 4] == parts[:-1, 5]).all()
        assert (parts[:, 7] & FIRST).tolist() == [FIRST] + [0] * (slots - 1)
        reduced += slots
    assert reduced == work.slots
    assert (work.items[work.items[:, 6] < 0, 7] & FIRST).all()


@settings(deadline=None, max_examples=150)
@given(LENS, SPECS, TILINGS)
def test_tiles_begin_on_pages_fit_their_class_and_come_costliest_first(lens, spec, tiling):
    work = WorkList.tiled(spec, batch_of(spec, lens), tiling)

    _, _, queries, _, begin, end, _, flags = work.items.T
    rows = queries * spec.group
    limit = np.where(flags & LARGE, tiling.large_rows, tiling.small_rows)
    assert (begin % spec.page_tokens == 0).all()
    assert (begin < end).all()
    assert (rows <= np.maximum(limit, spec.group)).all()
    assert work.tile_rows == rows.max(initial=0)
    cost = (end - begin) * (rows + 4) + 64 * rows
    assert (np.diff(cost) <= 0).all()


def test_tiles_are_split_only_where_there_are_too_few():
    spec = AttentionSpec(9, 3, 64, 64, torch.bfloat16)
    tiling = Tiling(small_rows=16, large_rows=96, programs=8)

    alone = WorkList.tiled(spec, batch_of(spec, [(1, 4096)]), tiling)
    crowd = WorkList.tiled(spec, batch_of(spec, [(1, 4096)] * 64), tiling)

    assert len(alone.items) == 8  # parts of 512 tokens, the least there is
    assert len(crowd.items) == 64
    assert crowd.slots == 0


def test_a_long_decode_beside_short_ones_is_shared_out():
    spec = AttentionSpec(8, 1, 64, 64, torch.bfloat16)
    tiling = Tiling(small_rows=16, large_rows=96, programs=4)

    work = WorkList.tiled(spec, batch_of(spec, [(1, 16384)] + [(1, 256)] * 8), tiling)

    tokens = work.items[:, 5] - work.items[:, 4]
    assert tokens.max() <= tokens.sum() / tiling.programs


def test_decodes_are_small_tiles_and_prompts_large_ones():
    spec = AttentionSpec(8, 2, 64, 64, torch.bfloat16)
    tiling = Tiling(small_rows=16, large_rows=64, programs=2)

    work = WorkList.tiled(spec, batch_of(spec, [(1, 100), (40, 40), (4, 60)]), tiling)

    by_sequence = work.items[np.argsort(work.items[:, 1])]
    assert by_sequence[:, 0].tolist() == [0, 1, 1, 1, 2]
    assert by_sequence[:, 2].tolist() == [1, 16, 16, 8, 4]
    assert (by_sequence[:, 7] & LARGE).tolist() == [0, LARGE, LARGE, LARGE, 0]


@settings(deadline=None, max_examples=300)
@given(LENS, SPECS, TILINGS)
def test_programs_that_take_tiles_in_order_end_within_4_3_of_the_least_possible(lens, spec, tiling):
    work = WorkList.tiled(spec, batch_of(spec, lens), tiling)

    busiest, least = work.makespan(tiling.programs)

    assert least <= busiest <= 4 / 3 * least


def test_the_least_possible_counts_the_tiles_that_must_share_a_program():
    spec = AttentionSpec(1, 1, 64, 64, torch.bfloat16)
    tiling = Tiling(small_rows=16, large_rows=96, programs=4)

    work = WorkList.tiled(spec, batch_of(spec, [(1, 64)] * 5), tiling)

    cost = 64 * (1 + 4) + 64
    assert work.makespan(4) == (2 * cost, 2 * cost)
    assert work.makespan(1) == (5 * cost, 5 * cost)


@settings(deadline=None)
@given(LENS, SPECS, TILINGS)
def test_a_work_list_has_the_sums_that_cost_models_price(lens, spec, tiling):
    batch = batch_of(spec, lens)
    work = WorkList.tiled(spec, batch, tiling)

    assert work.mix == Mix.of(batch.pairs)
    positions = [p for queries, context in lens for p in range(context - queries, context)]
    seen = [min(p + 1, spec.window or p + 1) for p in positions]
    assert work.visible_pairs == sum(seen) <= work.computed_pairs


@settings(deadline=None)
@given(LENS, LENS, SPECS, TILINGS)
def test_with_a_fixed_split_a_sequences_tiles_ignore_its_company(lens, others, spec, tiling):
    tiling = replace(tiling, fixed=True)

    def tiles(lens):
        items = WorkList.tiled(spec, batch_of(spec, lens), tiling).items
        mine = items[items[:, 0] == 0]
        return sorted(map(tuple, mine[:, [1, 2, 3, 4, 5, 7]].tolist()))

    assert tiles(lens[:1]) == tiles([*lens, *others])


def test_a_fixed_split_that_is_no_multiple_of_the_page_is_refused():
    spec = AttentionSpec(1, 1, 64, 64, torch.bfloat16)
    tiling = Tiling(small_rows=16, large_rows=96, programs=4, split_tokens=100, fixed=True)

    with pytest.raises(ValueError, match=r"split_tokens is 100: .* multiple of the page \(64"):
        WorkList.tiled(spec, batch_of(spec, [(1, 64)]), tiling)


@settings(deadline=None, max_examples=200)
@given(LENS, SPECS, TILINGS)
def test_a_work_list_fits_the_capacity_of_its_lengths(lens, spec, tiling):
    batch = batch_of(spec, lens)
    capacity = Capacity.of(
        spec,
        tiling,
        sequences=len(lens),
        tokens=batch.tokens,
        context_tokens=max(context for _, context in lens),
    )

    assert capacity.holds(WorkList.tiled(spec, batch, tiling))


@settings(deadline=None, max_examples=200)
@given(
    st.lists(st.integers(1, 4000), min_size=1, max_size=60),
    SPECS,
    st.builds(
        Tiling,
        small_rows=st.sampled_from([16, 64]),
        large_rows=st.sampled_from([0, 128]),
        programs=st.integers(1, 600),
        split_tokens=st.sampled_from([128, 256]),
        shares=st.integers(1, 6),
        fixed=st.booleans(),
    ),
    st.integers(0, 8),
)
def test_decodes_of_any_contexts_fit_a_room_for_more_of_them(contexts, spec, tiling, more):
    capacity = Capacity.of(
        spec,
        tiling,
        sequences=len(contexts) + more,
        tokens=len(contexts) + more,
        context_tokens=4000,
    )

    work = WorkList.tiled(spec, batch_of(spec, [(1, context) for context in contexts]), tiling)

    assert capacity.holds(work)


def test_a_capacity_is_no_more_than_the_step_and_its_programs_can_need():
    spec = AttentionSpec(32, 8, 128, 64, torch.bfloat16)
    tiling = Tiling(small_rows=16, large_rows=0, programs=396, split_tokens=256)

    short = Capacity.of(spec, tiling, sequences=64, tokens=64, context_tokens=256)
    long = Capacity.of(spec, tiling, sequences=64, tokens=64, context_tokens=131072)

    assert short == Capacity(items=64, reductions=0, slots=0)  # nothing to split
    shares = 2 * 396 * 4 // 8
    assert long == Capacity(items=64 + shares, reductions=64, slots=64 + shares)


def test_a_capacity_that_a_list_exceeds_does_not_hold_it():
    spec = AttentionSpec(1, 1, 64, 64, torch.bfloat16)
    tiling = Tiling(small_rows=16, large_rows=96, programs=4, split_tokens=128)
    work = WorkList.tiled(spec, batch_of(spec, [(1, 1024)]), tiling)

    exact = Capacity(items=len(work.items), reductions=1, slots=work.slots)

    assert work.slots > 1
    assert exact.holds(work)
    for name in ("items", "reductions", "slots"):
        assert not replace(exact, **{name: getattr(exact, name) - 1}).holds(work)
