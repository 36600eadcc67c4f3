"""Steps planned into a room at fixed addresses: the same attention, the same launch, every time."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from hfx.kernels import AttentionSpec, RaggedBatch
from hfx.kernels.gpu import operators as launchers

PAGE_TOKENS, PAGES = 16, 30
SPEC = AttentionSpec(4, 2, 16, PAGE_TOKENS, torch.float32)
SPARE = [(PAGES - 1) * PAGE_TOKENS]


@pytest.fixture(autouse=True)
def short_splits(monkeypatch):
    launch_of = launchers.launch_of
    monkeypatch.setattr(
        launchers, "launch_of", lambda *args: replace(launch_of(*args), split_tokens=32)
    )


def decodes(contexts, rows):
    """A step of one token a sequence, padded to so many rows."""
    columns = -(-max(contexts) // PAGE_TOKENS)
    pages = np.random.default_rng(len(contexts)).permutation(PAGES - 1)
    table_SC = pages[: len(contexts) * columns].reshape(len(contexts), columns)
    padding = np.array(SPARE * (rows - len(contexts)), np.int64)
    starts = np.arange(len(contexts) + 1)
    return RaggedBatch(starts, np.array(contexts), table_SC, PAGE_TOKENS, padding)


def filled(operators):
    cache = operators.allocate_cache(SPEC, PAGES)
    for part in (cache.k, cache.v):
        part.normal_()
    return cache


def test_attention_in_a_room_is_that_of_a_plan_of_its_own(operators):
    cache = filled(operators)
    room = operators.room(SPEC, sequences=4, context_tokens=112)
    addresses = set()

    for contexts in ([5, 100, 17], [1], [80, 81, 96, 112]):
        batch = decodes(contexts, 4)
        q_TNH = torch.randn(4, 4, 16)
        planned = operators.plan(SPEC, batch)
        expected_TNH = operators.attend(q_TNH, cache, planned)
        work = operators.plan_in(room, batch)
        out_TNH = operators.attend(q_TNH, cache, work)

        assert (planned.slots > 0) == (max(contexts) >= 64)
        assert torch.equal(out_TNH[: len(contexts)], expected_TNH[: len(contexts)])
        lists = (work.counts, work.device_items, work.lines, work.table_SC, work.partial)
        addresses.add(tuple(x.data_ptr() for x in lists))
    assert len(addresses) == 1


def test_keys_and_values_of_padding_go_to_the_spare_page(operators):
    cache = filled(operators)
    before = cache.k.clone()
    room = operators.room(SPEC, sequences=4, context_tokens=64)
    batch = decodes([20, 33], 4)
    x_TMH = torch.full((4, 2, 16), 7.0)
    table_PR = torch.cat((torch.ones(64, 8), torch.zeros(64, 8)), dim=1)  # turns nothing

    operators.plan_in(room, batch)
    operators.rope_kv_write(
        torch.zeros(4, 4, 16),
        x_TMH,
        x_TMH,
        batch.positions_T,
        table_PR,
        "neox",
        cache,
        batch.slots_T,
    )

    changed = (cache.k != before).any(dim=(2, 3)).nonzero().tolist()
    last = [(int(batch.table_SC[0, 1]), 3), (int(batch.table_SC[1, 2]), 0)]
    assert sorted(map(tuple, changed)) == sorted([*last, (PAGES - 1, 0)])


def test_a_step_that_is_too_large_for_its_room_is_our_mistake(operators):
    room = operators.room(SPEC, sequences=2, context_tokens=64)

    with pytest.raises(AssertionError, match="3 table, room for 2"):
        operators.plan_in(room, decodes([5, 6, 7], 3))
