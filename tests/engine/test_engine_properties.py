"""Whatever comes, is aborted or fails, in a pool of any size: every request gets the text that it
gets alone, or an end that says why not, and no block is lost."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from hfx.engine import Delta
from hfx.request import FinishReason

MAX_STEPS = 3000


@dataclass(frozen=True)
class Arrival:
    """A request that comes at a step, and is aborted at another if that comes first."""

    at: int
    prompt: tuple[int, ...]
    output: int
    abort_at: int | None


def arrivals() -> st.SearchStrategy[list[Arrival]]:
    # Few different tokens and a few common beginnings, so that prefixes are often shared.
    beginnings = st.sampled_from([(), (1,) * 4, (1,) * 8, (1, 2, 3, 4, 5, 6), (2,) * 13])
    prompts = st.tuples(beginnings, st.lists(st.integers(0, 2), min_size=1, max_size=14)).map(
        lambda parts: (*parts[0], *parts[1])
    )
    aborts = st.none() | st.integers(0, 40)
    return st.lists(
        st.builds(Arrival, st.integers(0, 15), prompts, st.integers(1, 12), aborts),
        min_size=1,
        max_size=10,
    )


@settings(max_examples=250, deadline=None)
@given(
    arrivals=arrivals(),
    blocks=st.integers(10, 30),
    running=st.integers(1, 6),
    spare_tokens=st.integers(0, 16),
    prefix_caching=st.booleans(),
    fail_steps=st.sets(st.integers(1, 40), max_size=2),
)
def test_every_request_gets_its_own_text_and_all_blocks_come_back(
    make_engine: Callable[..., Any],
    make_request: Callable[..., Any],
    alone: Callable[..., list[int]],
    arrivals: list[Arrival],
    blocks: int,
    running: int,
    spare_tokens: int,
    prefix_caching: bool,
    fail_steps: set[int],
) -> None:
    engine = make_engine(
        blocks=blocks,
        running=running,
        step_tokens=running + spare_tokens,
        prefix_caching=prefix_caching,
    )
    engine._executor.fail_steps = fail_steps
    news: dict[str, Delta] = {}

    def take(delta: Delta | None) -> None:
        if delta is not None:
            earlier = news.get(delta.request_id)
            news[delta.request_id] = earlier.followed_by(delta) if earlier else delta

    for step in range(MAX_STEPS):
        for index, arrival in enumerate(arrivals):
            if arrival.at == step:
                engine.add(make_request(str(index), arrival.prompt, max_tokens=arrival.output))
            if arrival.abort_at == step:
                take(engine.abort(str(index)))
        if not engine.has_work and step > 40:
            break
        for delta in engine.step():
            take(delta)
        engine.audit()

    assert not engine.has_work
    assert engine.stats().free_blocks == blocks
    assert engine.stats().failed_steps <= len(fail_steps)
    for index, arrival in enumerate(arrivals):
        delta = news[str(index)]
        expected = alone(list(arrival.prompt), arrival.output)
        assert list(delta.token_ids) == expected[: len(delta.token_ids)]
        if delta.finish_reason is FinishReason.LENGTH:
            assert len(delta.token_ids) == arrival.output
        else:
            assert delta.finish_reason in (FinishReason.ABORT, FinishReason.ERROR)
