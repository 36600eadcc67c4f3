"""Hard deadlines, and admission between two steps: what is refused is never computed."""

import asyncio
import threading
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from hfx.config import SchedulerConfig
from hfx.cost import Estimate
from hfx.engine import AsyncEngine, Delta, Engine, EngineDead, EngineFull, Infeasible
from hfx.engine.expiry import SPARE
from hfx.request import FinishReason, Objective, Plan, Refused, Request
from hfx.scheduler import Snapshot
from hfx.scheduler.admission import Outlook

Make = Callable[..., Any]
HARD = Objective(deadline_s=5.0, on_miss="refuse")
SOFT = Objective(deadline_s=5.0)


@pytest.fixture
def promised(make_request: Make) -> Make:
    def make(id: str, objective: Objective, **options: Any) -> Request:
        return replace(make_request(id, **options), objective=objective)

    return make


class Watch:
    """Moves a virtual clock in every step, and keeps the ends; executor and observer."""

    def __init__(self, engine: Engine, step_s: float) -> None:
        self._executor, self._clock, self._step_s = engine._executor, engine.clock, step_s
        self.ends: dict[str, Delta] = {}
        engine._executor = self
        engine.add_observer(self)

    def execute(self, batch: Any) -> Any:
        self._clock.advance(self._step_s)
        return self._executor.execute(batch)

    def on_step(self, record: Any) -> None:
        pass

    def on_finish(self, delta: Delta) -> None:
        self.ends[delta.request_id] = delta


def run(engine: Engine, *requests: Request, step_s: float = 1.0) -> dict[str, Delta]:
    """The ends of requests in steps of so many seconds."""
    watch = Watch(engine, step_s)
    for request in requests:
        engine.add(request)
    while engine.has_work:
        engine.step()
        engine.audit()
    return watch.ends


def test_a_running_request_ends_with_the_step_in_which_its_hard_deadline_passes(
    make_engine: Make, promised: Make
) -> None:
    ends = run(make_engine(), promised("hard", HARD, max_tokens=20), step_s=0.9)

    assert ends["hard"].finish_reason is FinishReason.EXPIRED
    assert ends["hard"].output_tokens == 6  # at 0.9, ..., 5.4 s: then 5 s have passed


def test_a_waiting_request_expires_without_having_been_computed(
    make_engine: Make, promised: Make
) -> None:
    ends = run(
        make_engine(running=1),
        promised("first", Objective(), max_tokens=20),
        promised("hard", HARD, max_tokens=1),
    )

    assert ends["hard"].finish_reason is FinishReason.EXPIRED
    assert ends["hard"].output_tokens == 0
    assert ends["hard"].times.scheduled_s is None
    assert ends["hard"].account.first.queue_s == pytest.approx(6.0)
    assert ends["first"].finish_reason is FinishReason.LENGTH


def test_an_answer_that_is_done_too_late_has_expired_too(make_engine: Make, promised: Make) -> None:
    ends = run(make_engine(), promised("hard", HARD, max_tokens=3), step_s=2.0)

    assert ends["hard"].finish_reason is FinishReason.EXPIRED


def test_an_answer_that_is_done_in_time_has_not(make_engine: Make, promised: Make) -> None:
    ends = run(make_engine(), promised("hard", HARD, max_tokens=5), step_s=1.0)

    assert ends["hard"].finish_reason is FinishReason.LENGTH


def test_a_soft_deadline_ends_nothing(make_engine: Make, promised: Make) -> None:
    ends = run(make_engine(), promised("soft", SOFT, max_tokens=9))

    assert ends["soft"].finish_reason is FinishReason.LENGTH


def test_a_deadline_that_passes_while_nothing_can_run_ends_its_request(
    make_engine: Make, promised: Make
) -> None:
    engine = make_engine()
    engine._policy = type("Idle", (), {"plan": lambda self, _: Plan(), "ended": lambda *_: None})()
    engine.add(promised("hard", HARD))

    assert engine.step() == []
    engine.clock.advance(5.5)
    (delta,) = engine.step()

    assert delta.finish_reason is FinishReason.EXPIRED
    assert not engine.has_work


def test_deadlines_of_ended_requests_are_forgotten(make_engine: Make, promised: Make) -> None:
    engine = make_engine()

    for index in range(5 * SPARE):
        run(engine, promised(str(index), HARD, max_tokens=1), step_s=0.0)

    assert len(engine._expiries._heap) <= SPARE + 1


def test_an_id_that_is_used_again_does_not_inherit_a_deadline(
    make_engine: Make, promised: Make
) -> None:
    engine = make_engine()
    run(engine, promised("again", HARD, max_tokens=1), step_s=0.0)
    ends = run(engine, promised("again", Objective(), max_tokens=9))

    assert ends["again"].finish_reason is FinishReason.LENGTH


class Relegating:
    """A policy that relegates by name, from some step on."""

    def __init__(self, policy: Any, *by_step: set[str]) -> None:
        self._policy, self._by_step = policy, list(by_step)

    def plan(self, snapshot: Snapshot) -> Plan:
        live = {live.request.id for live in (*snapshot.running, *snapshot.waiting)}
        names = self._by_step.pop(0) if self._by_step else set()
        return replace(self._policy.plan(snapshot), relegated=frozenset(names & live))

    def ended(self, *_: Any) -> None:
        pass


def test_a_request_counts_as_relegated_once_under_its_tier(
    make_engine: Make, promised: Make
) -> None:
    engine = make_engine(running=1)
    engine._policy = Relegating(engine._policy, {"b"}, {"a", "b"}, set(), {"b"})
    records: list[Any] = []
    watch = Watch(engine, 1.0)
    watch.on_step = records.append  # type: ignore[method-assign]
    deferred = []
    for name in ("a", "b", "c"):
        engine.add(promised(name, Objective(tier=f"tier-{name}"), max_tokens=4))
    while engine.has_work:
        engine.step()
        deferred.append(engine.stats().deferred)

    assert [record.relegated for record in records[:4]] == [("tier-b",), ("tier-a",), (), ()]
    assert deferred[:4] == [1, 1, 0, 1]  # of those that wait
    assert watch.ends["b"].account.was_relegated
    assert not watch.ends["c"].account.was_relegated


@dataclass
class Oracle:
    """Stands for admission: refuses by name, and remembers what it was shown."""

    refuse: set[str] = field(default_factory=set)
    asked: list[tuple[str, int, int, int]] = field(default_factory=list)

    def answer(self, request: Request, snapshot: Snapshot, cached: int = 0) -> Refused | None:
        seen = (request.id, len(snapshot.running), len(snapshot.waiting), cached)
        self.asked.append(seen)
        return Refused("no time", 3.5, {"deadline_s": 9.0}) if request.id in self.refuse else None

    def outlook(self, request: Request, snapshot: Snapshot, cached: int = 0) -> Outlook:
        return Outlook(Estimate(1.0, 2.0), Estimate(0.1, 0.2), Estimate(3.0, 4.0))


def serve(
    engine: Engine, test: Callable[[AsyncEngine], Coroutine[Any, Any, None]], **limits: int
) -> None:
    """Run a test against the engine in its thread; no block may be left."""

    async def bounded() -> None:
        asynchronous = AsyncEngine(engine, limits=SchedulerConfig(**{"max_num_seqs": 8, **limits}))
        try:
            await asyncio.wait_for(test(asynchronous), 60)
        finally:
            asynchronous.close()
        engine.audit()
        assert not engine.has_work

    asyncio.run(bounded())


async def drain(stream: Any) -> Delta:
    last = None
    async for delta in stream:
        last = delta
    assert last is not None
    return last


def test_what_was_predicted_is_kept_beside_what_came(make_engine: Make, promised: Make) -> None:
    oracle = Oracle()
    ends = run(make_engine(admission=oracle), promised("a", SOFT), promised("free", Objective()))

    assert ends["a"].account.outlook.ttft_s == Estimate(1.0, 2.0)
    assert ends["free"].account.outlook is None  # nothing was promised, and nobody asked
    assert oracle.asked == []  # whoever may be late is not asked about


def test_a_refused_request_is_never_computed(make_engine: Make, promised: Make) -> None:
    engine = make_engine(admission=Oracle(refuse={"bad"}))

    async def test(serving: AsyncEngine) -> None:
        with pytest.raises(Infeasible, match="no time") as error:
            await serving.admit([promised("bad", HARD)])
        assert error.value.refused.retry_after_s == 3.5
        assert engine.steps == 0

    serve(engine, test)


def test_of_several_requests_all_are_admitted_or_none(make_engine: Make, promised: Make) -> None:
    oracle = Oracle(refuse={"bad"})
    engine = make_engine(admission=oracle)

    async def test(serving: AsyncEngine) -> None:
        with pytest.raises(Infeasible):
            await serving.admit([promised(name, HARD) for name in ("x", "y", "bad", "z")])
        assert engine.steps == 0
        assert serving.stats().waiting == 0
        streams = await serving.admit([promised(name, HARD) for name in ("x", "y")])
        assert [(await drain(stream)).output_tokens for stream in streams] == [6, 6]

    serve(engine, test)

    assert oracle.asked[:3] == [("x", 0, 0, 0), ("y", 0, 1, 0), ("bad", 0, 2, 0)]


def test_admission_hears_of_the_cached_prefix(make_engine: Make, promised: Make) -> None:
    oracle = Oracle()

    async def test(serving: AsyncEngine) -> None:
        for name in ("cold", "warm"):
            (stream,) = await serving.admit([promised(name, HARD, prompt=(1,) * 9, max_tokens=1)])
            await drain(stream)

    serve(make_engine(admission=oracle), test)

    assert [asked[3] for asked in oracle.asked] == [0, 8]


def test_a_request_that_may_be_late_is_not_asked_about(make_engine: Make, promised: Make) -> None:
    async def test(serving: AsyncEngine) -> None:
        (stream,) = await serving.admit([promised("bad", SOFT)])
        assert (await drain(stream)).finish_reason is FinishReason.LENGTH

    serve(make_engine(admission=Oracle(refuse={"bad"})), test)


def test_foreseeing_runs_nothing(make_engine: Make, promised: Make) -> None:
    engine = make_engine(admission=Oracle(refuse={"bad"}))

    async def test(serving: AsyncEngine) -> None:
        outlook, refused = await serving.foresee(promised("bad", SOFT))
        assert outlook is not None and outlook.tpot_s.upper_s == 0.2
        assert refused is not None and refused.feasible == {"deadline_s": 9.0}
        assert await serving.foresee(promised("fine", Objective())) != (None, None)

    serve(engine, test)

    assert engine.steps == 0


def test_without_prices_nothing_is_foreseen_or_refused(make_engine: Make, promised: Make) -> None:
    async def test(serving: AsyncEngine) -> None:
        assert await serving.foresee(promised("a", HARD)) == (None, None)
        (stream,) = await serving.admit([promised("a", HARD)])
        assert (await drain(stream)).finish_reason is FinishReason.LENGTH

    serve(make_engine(), test)


class Slow:
    """An executor that waits to be let through."""

    def __init__(self, executor: Any, dies: bool = False) -> None:
        self._executor, self._dies = executor, dies
        self.reached, self.gate = threading.Event(), threading.Event()

    def execute(self, batch: Any) -> Any:
        self.reached.set()
        assert self.gate.wait(60)
        if self._dies:
            raise KeyboardInterrupt("the thread is killed")
        return self._executor.execute(batch)


def test_whoever_leaves_before_the_answer_leaves_nothing_behind(
    make_engine: Make, promised: Make
) -> None:
    engine = make_engine(admission=Oracle())
    slow = engine._executor = Slow(engine._executor)

    async def test(serving: AsyncEngine) -> None:
        stream = serving.generate(promised("first", Objective(), max_tokens=2))
        await asyncio.to_thread(slow.reached.wait, 60)
        leaving = asyncio.ensure_future(serving.admit([promised("gone", HARD)]))
        await asyncio.sleep(0.01)
        leaving.cancel()
        with pytest.raises(asyncio.CancelledError):
            await leaving
        slow.gate.set()
        await drain(stream)
        await serving.drain(60)
        assert serving.stats().waiting == serving.stats().running == 0

    serve(engine, test)


def test_an_engine_that_dies_answers_whoever_asks(make_engine: Make, promised: Make) -> None:
    engine = make_engine(admission=Oracle())
    slow = engine._executor = Slow(engine._executor, dies=True)

    async def test() -> None:
        serving = AsyncEngine(engine)
        stream = serving.generate(promised("first", Objective()))
        await asyncio.to_thread(slow.reached.wait, 60)
        asking = asyncio.ensure_future(serving.admit([promised("asks", HARD)]))
        await asyncio.sleep(0.01)
        slow.gate.set()
        with pytest.raises(EngineDead):
            await asyncio.wait_for(asking, 30)
        with pytest.raises(EngineDead):
            await drain(stream)
        serving.close()

    asyncio.run(test())


def test_admission_that_fails_fails_its_request_and_not_the_engine(
    make_engine: Make, promised: Make
) -> None:
    oracle = Oracle()
    engine = make_engine(admission=oracle)
    oracle.answer = lambda *_: 1 / 0  # type: ignore[assignment, method-assign]

    async def test(serving: AsyncEngine) -> None:
        with pytest.raises(ZeroDivisionError):
            await serving.admit([promised("a", HARD)])
        assert serving.is_healthy

    serve(engine, test)


def test_a_prediction_that_fails_costs_a_request_its_prediction_and_nothing_else(
    make_engine: Make, promised: Make, caplog: pytest.LogCaptureFixture
) -> None:
    oracle = Oracle()
    oracle.outlook = lambda *_: 1 / 0  # type: ignore[assignment, method-assign]

    ends = run(make_engine(admission=oracle), promised("a", SOFT, max_tokens=2))

    assert ends["a"].finish_reason is FinishReason.LENGTH
    assert ends["a"].account.outlook is None
    assert "request a could not be predicted" in caplog.text


class Priced:
    """Stands for prices: a second for each prompt token, half a second a step of decodes."""

    class online:
        @staticmethod
        def step_s(mix: Any) -> Estimate:
            return Estimate(mix.prefill_tokens + 0.5 * bool(mix.decodes), 99.0)

    def predict(self, mix: Any) -> Estimate:
        return self.online.step_s(mix)

    def learn(self, mix: Any, seconds: float) -> None:
        pass


def test_the_next_place_in_the_queue_costs_what_a_request_takes_by_the_prices(
    make_engine: Make, promised: Make
) -> None:
    engine = make_engine(running=1, cost=Priced())
    engine.add(promised("running", Objective(), max_tokens=30))

    engine.step()
    assert engine.room_s is None  # nobody waits
    engine.add(promised("waiting", Objective(), max_tokens=5))
    engine.step()

    assert engine.room_s == 3.0 + 5 * 0.5  # its prompt, and its five tokens


def test_a_full_queue_says_when_there_is_room(make_engine: Make, promised: Make) -> None:
    engine = make_engine(running=1)
    slow = engine._executor = Slow(engine._executor)
    engine._room.wait_s = 5.5

    async def test(serving: AsyncEngine) -> None:
        streams = [serving.generate(promised(str(i), Objective())) for i in range(2)]
        with pytest.raises(EngineFull) as error:
            serving.generate(promised("2", Objective()))
        assert error.value.retry_after_s == 5.5
        slow.gate.set()
        for stream in streams:
            await drain(stream)

    serve(engine, test, max_num_seqs=1, max_num_queued_reqs=1)
