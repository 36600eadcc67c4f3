"""Steps are padded to few shapes, and what was in them stays where it was."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hfx.engine.batch import StepBatch
from hfx.engine.buckets import Buckets, at_least, ladder
from hfx.engine.warm_up import batch_of, shapes_of
from hfx.request import Mix

PAGE_TOKENS, SPARE = 16, 99


def buckets(max_tokens: int = 64, max_sequences: int = 6, context_tokens: int = 200) -> Buckets:
    return Buckets.of(
        max_tokens=max_tokens,
        max_sequences=max_sequences,
        context_tokens=context_tokens,
        page_tokens=PAGE_TOKENS,
    )


def step(lens: list[tuple[int, int]]) -> StepBatch:
    counts = np.array([n for n, _ in lens])
    contexts = np.array([n + h for n, h in lens], np.int32)
    columns = -(-int(contexts.max()) // PAGE_TOKENS)
    starts = np.concatenate(([0], counts.cumsum())).astype(np.int32)
    return StepBatch(
        token_ids_T=np.arange(starts[-1]),
        query_starts=starts,
        context_lens_S=contexts,
        table_SC=np.arange(len(lens) * columns, dtype=np.int32).reshape(len(lens), columns),
        sampled_rows_R=(starts[1:] - 1).astype(np.int64),
        draws=(),
        mix=Mix.of(lens),
    )


def test_sizes_are_whole_at_first_and_then_a_fraction_of_their_octave_apart() -> None:
    assert ladder(20, 4) == (1, 2, 3, 4, 5, 6, 7, 8, 10, 12, 14, 16, 20)
    assert ladder(6, 1) == (1, 2, 4, 6)
    assert ladder(1, 8) == (1,)


@given(st.integers(1, 5000), st.integers(1, 8), st.integers(1, 5000))
def test_the_least_size_that_holds_a_step_wastes_no_more_than_a_fraction(
    most: int, steps: int, wanted: int
) -> None:
    wanted = min(wanted, most)
    size = at_least(ladder(most, steps), wanted)

    assert wanted <= size <= most
    assert (size - wanted) * steps <= wanted


@given(
    st.lists(st.tuples(st.integers(1, 10), st.integers(0, 190)), min_size=1, max_size=6),
)
def test_padding_moves_nothing_and_writes_to_the_spare_page_only(
    lens: list[tuple[int, int]],
) -> None:
    batch = step(lens)
    shapes = buckets()

    ragged = shapes.pad(batch, PAGE_TOKENS, SPARE)

    tokens, sequences = len(batch.token_ids_T), len(lens)
    assert ragged.rows in shapes.tokens and len(ragged.context_lens_S) in shapes.sequences
    assert ragged.table_SC.shape[1] == shapes.columns == 16
    assert ragged.tokens == tokens
    assert ragged.pairs == lens
    positions = [h + i for n, h in lens for i in range(n)]
    assert ragged.positions_T.tolist() == positions + [0] * (ragged.rows - tokens)
    pages = ragged.slots_T // PAGE_TOKENS
    owned = np.repeat(np.arange(sequences), [n for n, _ in lens])
    assert (pages[:tokens] == batch.table_SC[owned, np.array(positions) // PAGE_TOKENS]).all()
    assert (pages[tokens:] == SPARE).all()


def test_a_step_beyond_what_was_prepared_is_our_mistake() -> None:
    with pytest.raises(AssertionError, match="65 is more than the 64 that were prepared"):
        buckets().pad(step([(65, 0)]), PAGE_TOKENS, SPARE)


@pytest.mark.parametrize(
    ("max_tokens", "max_sequences", "context_tokens"),
    [(1, 1, 2), (2, 1, 500), (64, 6, 20), (512, 64, 8192), (8192, 256, 131072), (40, 3, 40)],
)
def test_every_step_of_the_warm_up_is_one_that_serving_could_bring(
    max_tokens: int, max_sequences: int, context_tokens: int
) -> None:
    shapes = buckets(max_tokens, max_sequences, context_tokens)
    sizes = set()

    for shape in shapes_of(shapes, context_tokens):
        batch = batch_of(shape, SPARE, shapes.columns)
        ragged = shapes.pad(batch, PAGE_TOKENS, SPARE)
        sizes.add(ragged.rows)
        assert 1 <= len(shape) <= max_sequences
        assert max(n + h for n, h in shape) <= context_tokens
        assert (ragged.table_SC[: len(shape)] == SPARE).all()

    reachable = {t for t in shapes.tokens if t <= max_sequences * context_tokens}
    assert reachable <= sizes
