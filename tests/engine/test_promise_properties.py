"""The hfx policy in the engine, with promises of every kind: nobody gets a wrong text or is served
past a hard deadline, all blocks come back, and every second is put down once."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hfx.clock import VirtualClock
from hfx.config import SchedulerConfig
from hfx.cost import DEVICES, Sizes, roofline
from hfx.engine import Delta
from hfx.engine.live_cost import LiveCost, Origin
from hfx.engine.policy import admission_for, policy_for
from hfx.engine.verdict import verdict
from hfx.request import FinishReason, Objective, Request

SIZES = Sizes(
    layers=2, width=64, ffn_width=128, query_heads=4, kv_heads=2, head_size=16, vocabulary=90
)
COST = roofline(SIZES, DEVICES["cpu-2-cores"], model="m")
MAX_STEPS = 4000


@dataclass(frozen=True)
class Arrival:
    """A request that comes at a step with a promise in lengths of the shortest step."""

    at: int
    prompt: tuple[int, ...]
    output: int
    objective: Objective
    hint: int | None


class Paced:
    """An executor whose steps take what they cost, times a pace that changes."""

    def __init__(self, executor: Any, clock: VirtualClock, paces: list[float]) -> None:
        self._executor, self._clock, self._paces = executor, clock, paces
        self._steps = 0

    def execute(self, batch: Any) -> Any:
        self._steps += 1
        pace = self._paces[self._steps % len(self._paces)]
        self._clock.advance(COST.step_s(batch.mix).mean_s * pace)
        return self._executor.execute(batch)


def objectives() -> st.SearchStrategy[Objective]:
    target = st.none() | st.floats(1e-5, 0.02)
    return st.builds(
        Objective,
        ttft_s=target,
        tpot_s=target,
        deadline_s=target,
        tier=st.sampled_from(["a", "b"]),
        weight=st.sampled_from([0.25, 1.0, 4.0]),
        on_miss=st.sampled_from(["relegate", "refuse"]),
        may_relegate=st.booleans(),
    )


def arrivals() -> st.SearchStrategy[list[Arrival]]:
    prompts = st.lists(st.integers(0, 2), min_size=1, max_size=20).map(tuple)
    hints = st.none() | st.integers(1, 30)
    one = st.builds(Arrival, st.integers(0, 15), prompts, st.integers(1, 12), objectives(), hints)
    return st.lists(one, min_size=1, max_size=12)


@settings(max_examples=150, deadline=None)
@given(
    arrivals=arrivals(),
    blocks=st.integers(10, 30),
    running=st.integers(1, 6),
    prefix_caching=st.booleans(),
    paces=st.lists(st.sampled_from([0.5, 1.0, 1.0, 3.0]), min_size=1, max_size=5),
)
def test_promises_change_when_work_is_done_and_never_what_it_gives(
    make_engine: Callable[..., Any],
    make_request: Callable[..., Any],
    alone: Callable[..., list[int]],
    arrivals: list[Arrival],
    blocks: int,
    running: int,
    prefix_caching: bool,
    paces: list[float],
) -> None:
    clock, cost = VirtualClock(1.0), LiveCost(COST, Origin("file", "for a test"))
    config = SchedulerConfig(max_num_seqs=running, max_num_batched_tokens=16)
    policy = policy_for(config, cost.online)
    engine = make_engine(
        blocks=blocks,
        prefix_caching=prefix_caching,
        clock=clock,
        cost=cost,
        admission=admission_for(config, cost.online, policy),
    )
    engine._policy = policy
    engine._executor = Paced(engine._executor, clock, paces)
    news: dict[str, Delta] = {}
    refused: set[str] = set()

    for step in range(MAX_STEPS):
        for index, arrival in enumerate(arrivals):
            if arrival.at == step:
                _arrive(engine, make_request, str(index), arrival, refused)
        if not engine.has_work and step > 15:
            break
        for delta in engine.step():
            earlier = news.get(delta.request_id)
            news[delta.request_id] = earlier.followed_by(delta) if earlier else delta
        engine.audit()
        if not engine.has_work:
            clock.advance(0.001)

    assert not engine.has_work
    assert engine.stats().free_blocks == blocks
    assert set(news) | refused == {str(index) for index in range(len(arrivals))}
    for request_id, delta in news.items():
        arrival = arrivals[int(request_id)]
        expected = alone(list(arrival.prompt), arrival.output)
        assert list(delta.token_ids) == expected[: len(delta.token_ids)]
        _check_end(delta, arrival)


def _arrive(engine: Any, make: Any, id: str, arrival: Arrival, refused: set[str]) -> None:
    request: Request = replace(
        make(id, arrival.prompt, max_tokens=arrival.output),
        objective=arrival.objective,
        expected_output_tokens=arrival.hint,
    )
    answer = engine.answer(request)
    if answer is not None and arrival.objective.on_miss == "refuse":
        refused.add(id)
        assert answer.retry_after_s > 0
        assert all(best > 0 for best in answer.feasible.values())
    else:
        engine.add(request)


def _check_end(delta: Delta, arrival: Arrival) -> None:
    objective, times, account = arrival.objective, delta.times, delta.account
    assert account is not None
    is_hard = objective.on_miss == "refuse" and objective.deadline_s is not None
    if delta.finish_reason is FinishReason.EXPIRED:
        assert is_hard
        judged = verdict(delta)
        assert judged is not None and not judged.is_met and judged.cause is not None
    else:
        assert delta.finish_reason is FinishReason.LENGTH
        assert delta.output_tokens == arrival.output
        assert times.last_token_s is not None and times.first_token_s is not None
        took_s = times.last_token_s - times.arrival_s
        assert not is_hard or took_s <= objective.deadline_s + 1e-12
        assert account.first.total_s + account.later.total_s == pytest.approx(took_s)
        assert account.first.total_s == pytest.approx(times.first_token_s - times.arrival_s)
