"""Where seconds go, on a virtual clock that every step moves by its price: a tariff small enough to
check by hand."""

import random
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from hfx.clock import VirtualClock
from hfx.cost import Estimate
from hfx.engine import Delta, Engine, StepBatch, StepOutput
from hfx.engine.account import Account, Meter, Spent
from hfx.request import FinishReason, Mix, Objective, Plan, Request
from hfx.scheduler import Live, Snapshot

Make = Callable[..., Any]


def price_s(mix: Mix) -> float:
    """1 s a step, 0.1 s a decode, 0.5 s a prompt token."""
    return 1.0 + 0.1 * mix.decodes + 0.5 * mix.prefill_tokens


class Tariff:
    """Stands for a `LiveCost` that is right."""

    online = SimpleNamespace(step_s=lambda mix: Estimate(price_s(mix), price_s(mix)))

    def predict(self, mix: Mix) -> Estimate:
        return self.online.step_s(mix)

    def learn(self, mix: Mix, seconds: float) -> None:
        pass


class Tolled:
    """An executor whose steps take what they cost."""

    def __init__(self, executor: Any, clock: VirtualClock) -> None:
        self._executor, self._clock = executor, clock

    def execute(self, batch: StepBatch) -> StepOutput:
        self._clock.advance(price_s(batch.mix))
        output: StepOutput = self._executor.execute(batch)
        return output


@pytest.fixture
def tolled(make_engine: Make) -> Make:
    def make(**options: Any) -> Engine:
        clock = VirtualClock(1.0)
        engine = make_engine(clock=clock, cost=Tariff(), **options)
        engine._executor = Tolled(engine._executor, clock)
        return engine

    return make


def finish(engine: Engine, *requests: Request) -> dict[str, Delta]:
    """The last delta of each."""
    for request in requests:
        engine.add(request)
    ends: dict[str, Delta] = {}
    while engine.has_work:
        ends |= {delta.request_id: delta for delta in engine.step() if delta.finish_reason}
    return ends


def equal(actual: Spent, **seconds: float) -> None:
    for name in Spent.__slots__:
        assert getattr(actual, name) == pytest.approx(seconds.get(name.removesuffix("_s"), 0.0)), (
            name
        )


def account_of(end: Delta) -> Account:
    assert end.account is not None
    return end.account


def test_a_request_alone_spends_its_time_on_its_own_steps(tolled: Make, make_request: Make) -> None:
    end = finish(tolled(), make_request(prompt=(1, 2, 3, 4), max_tokens=3))["r"]

    equal(account_of(end).first, prompt=3.0)
    equal(account_of(end).later, decode=2.2)


def test_what_a_prompt_adds_to_the_steps_of_a_decode_is_interference(
    tolled: Make, make_request: Make
) -> None:
    engine = tolled()
    engine.add(make_request("early", prompt=(1, 2), max_tokens=3))
    engine.step()
    ends = finish(engine, make_request("late", prompt=(5, 6, 7, 8), max_tokens=1))

    early, late = account_of(ends["early"]), account_of(ends["late"])
    equal(early.later, decode=2.2, interference=2.0)  # 3.1 s with the prompt, of which 1.1 its own
    equal(late.first, prompt=3.0, interference=0.1)


def test_the_time_before_the_engine_hears_of_a_request_is_the_hosts(
    tolled: Make, make_request: Make
) -> None:
    engine = tolled()
    engine.clock.advance(2.0)
    request = make_request(prompt=(1, 2), max_tokens=1)
    end = finish(engine, Request(id="r", prompt_token_ids=(1, 2), sampling=request.sampling,
                                 arrival_s=2.5))["r"]  # fmt: skip

    equal(account_of(end).first, host=0.5, prompt=2.0)


def test_waiting_for_a_slot_is_queueing(tolled: Make, make_request: Make) -> None:
    ends = finish(
        tolled(running=1),
        make_request("a", prompt=(1, 2), max_tokens=2),
        make_request("b", prompt=(1, 2), max_tokens=1),
    )

    equal(account_of(ends["b"]).first, queue=2.0 + 1.1, prompt=2.0)


def test_waiting_for_blocks_is_the_caches_fault(tolled: Make, make_request: Make) -> None:
    ends = finish(
        tolled(blocks=3, max_model_len=12, prefix_caching=False),
        make_request("a", prompt=(1,) * 8, max_tokens=2),  # holds 2 blocks, then 3
        make_request("b", prompt=(2,) * 8, max_tokens=1),
    )

    equal(account_of(ends["b"]).first, kv=5.0 + 1.1, prompt=5.0)


def test_a_preempted_request_blames_what_it_waits_and_recomputes_on_that(
    tolled: Make, make_request: Make
) -> None:
    ends = finish(
        tolled(blocks=4, max_model_len=16, prefix_caching=False),
        make_request("a", prompt=(1,) * 6, max_tokens=8),
        make_request("b", prompt=(2,) * 6, max_tokens=4),
    )

    assert ends["b"].preemptions == 1
    assert account_of(ends["b"]).later.preemption_s > 4.0  # 1 s and more than 6 tokens again
    assert account_of(ends["a"]).later.preemption_s == 0.0


class Whims:
    """A policy that leaves running requests out of steps at random."""

    def __init__(self, policy: Any, seed: int) -> None:
        self._policy, self._random = policy, random.Random(seed)

    def plan(self, snapshot: Snapshot) -> Plan:
        plan = self._policy.plan(snapshot)
        started = {live.request.id for live in snapshot.waiting}
        kept = {
            id: tokens
            for id, tokens in plan.tokens.items()
            if id in started or self._random.random() < 0.7
        }
        return Plan(tokens=kept or plan.tokens, preempt=plan.preempt)

    def ended(self, request: Request, output_tokens: int, reason: FinishReason) -> None:
        pass


@pytest.mark.parametrize("seed", range(12))
def test_every_second_from_arrival_to_last_token_is_put_down_once(
    tolled: Make, make_request: Make, seed: int
) -> None:
    chance = random.Random(seed)
    engine = tolled(blocks=10, running=4, step_tokens=6, prefix_caching=seed % 2 == 0)
    engine._policy = Whims(engine._policy, seed)
    ends: dict[str, Delta] = {}
    for index in range(14):
        prompt = [chance.randrange(3) for _ in range(chance.randrange(1, 20))]
        engine.add(make_request(str(index), prompt, max_tokens=chance.randrange(1, 20)))
        for _ in range(chance.randrange(4)):
            engine.clock.advance(chance.choice([0.0, 0.25]))
            ends |= {delta.request_id: delta for delta in engine.step() if delta.finish_reason}
    ends |= finish(engine)

    assert len(ends) == 14
    for end in ends.values():
        times, account = end.times, account_of(end)
        assert times.first_token_s is not None and times.last_token_s is not None
        assert account.first.total_s == pytest.approx(times.first_token_s - times.arrival_s)
        assert account.later.total_s == pytest.approx(times.last_token_s - times.first_token_s)
        for part in (account.first, account.later):
            assert min(getattr(part, name) for name in Spent.__slots__) >= -1e-9
        assert (end.preemptions > 0) == (
            account.first.preemption_s + account.later.preemption_s > 0
        )
    assert any(end.preemptions for end in ends.values())


def test_without_prices_a_steps_time_is_shared_by_tokens(
    make_engine: Make, make_request: Make
) -> None:
    clock = VirtualClock(1.0)
    engine = make_engine(clock=clock)
    engine._executor = Tolled(engine._executor, clock)
    engine.add(make_request("early", prompt=(1, 2), max_tokens=2))
    engine.step()
    ends = finish(engine, make_request("late", prompt=(5, 6, 7), max_tokens=1))

    equal(account_of(ends["early"]).later, decode=2.6 / 4, interference=2.6 * 3 / 4)


def live(arrival_s: float, first_s: float, last_s: float, tokens: int) -> Live:
    request = Request(id="r", prompt_token_ids=(1,))
    return Live(request, 1, 1 + tokens, tokens, 1, arrival_s=arrival_s, first_token_s=first_s,
                last_token_s=last_s)  # fmt: skip


@pytest.mark.parametrize(
    ("objective", "late_s"),
    [
        (Objective(ttft_s=2.0, tpot_s=0.5), 1.0),  # token 3 is due at 10 + 2 + 2 x 0.5, came at 14
        (Objective(tpot_s=0.5), 2.0),  # counted from the first token, at 11
        (Objective(ttft_s=2.0), -1.0),  # the first token only
        (Objective(deadline_s=3.0), None),
    ],
)
def test_lateness_is_the_worst_tokens_by_the_cumulative_rule(
    objective: Objective, late_s: float | None
) -> None:
    account = Meter(None).open(objective, 10.0, 10.0)

    account.token(live(10.0, 11.0, 11.0, 1))
    account.token(live(10.0, 11.0, 14.0, 3))
    account.token(live(10.0, 11.0, 14.1, 4))

    assert account.late_s == (None if late_s is None else pytest.approx(late_s))
