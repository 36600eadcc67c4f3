"""A token for each decode, at once where it fits, and one after the other where not."""

from hypothesis import given
from hypothesis import strategies as st

from hfx.scheduler import Blocks, Live, Snapshot
from hfx.scheduler.fill import Fill

from .builders import BLOCK_TOKENS, decodes


@given(
    st.lists(st.integers(1, 3 * BLOCK_TOKENS), min_size=1, max_size=12),
    st.integers(0, 14),
    st.integers(1, 14),
)
def test_all_at_once_grants_what_one_by_one_would(
    outputs: list[int], free: int, budget: int
) -> None:
    lives = [decodes(f"r{n}", output) for n, output in enumerate(outputs)]
    held = sum(live.held_blocks for live in lives)
    snapshot = Snapshot(0.0, lives, [], Blocks(held + free, free, BLOCK_TOKENS))

    at_once, one_by_one = (Fill(snapshot, lambda: list(lives)) for _ in range(2))
    at_once.advance_each(lives, budget)
    step_through(one_by_one, lives, budget)

    assert at_once.plan() == one_by_one.plan()
    assert list(at_once.tokens) == list(one_by_one.tokens)
    assert at_once.free == one_by_one.free >= 0
    assert at_once.granted_tokens == one_by_one.granted_tokens == sum(at_once.tokens.values())


def step_through(fill: Fill, lives: list[Live], budget: int) -> None:
    for live in lives:
        if fill.granted_tokens < budget and live.request.id not in fill.preempted:
            fill.advance(live, 1)
