"""The core loop over the paged double: text, ends, preemption, prefix hits, failures, accounts."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from hfx.clock import VirtualClock
from hfx.engine import Delta, Engine, EngineDead, Sampled, StepBatch, StepOutput, StepRecord
from hfx.request import FinishReason, Plan, Request
from hfx.scheduler import Snapshot

Make = Callable[..., Any]
Alone = Callable[..., list[int]]


def run(engine: Engine, *requests: Request) -> dict[str, Delta]:
    """Everything that each request got, as one delta; audits the engine after every step."""
    for request in requests:
        engine.add(request)
    news: dict[str, Delta] = {}
    while engine.has_work:
        for delta in engine.step():
            earlier = news.get(delta.request_id)
            news[delta.request_id] = earlier.followed_by(delta) if earlier else delta
        engine.audit()
    return news


def prompt(start: int, size: int) -> list[int]:
    return [(start + i) % 90 for i in range(size)]


class Recorder:
    def __init__(self) -> None:
        self.steps: list[StepRecord] = []
        self.ends: list[Delta] = []

    def on_step(self, record: StepRecord) -> None:
        self.steps.append(record)

    def on_finish(self, delta: Delta) -> None:
        self.ends.append(delta)


def test_a_request_gets_its_tokens_one_by_one_and_their_text(
    make_engine: Make, make_request: Make, alone: Alone
) -> None:
    engine = make_engine()
    engine.add(make_request("r", prompt(0, 3), max_tokens=4, logprobs=0))

    deltas = [engine.step() for _ in range(4)]

    expected = alone(prompt(0, 3), 4)
    assert [d.token_ids for [d] in deltas] == [(token,) for token in expected]
    assert "".join(d.text for [d] in deltas) == "".join(chr(33 + t) for t in expected)
    assert [d.finish_reason for [d] in deltas] == [None, None, None, FinishReason.LENGTH]
    assert [d.output_tokens for [d] in deltas] == [1, 2, 3, 4]
    assert deltas[0][0].logprobs is not None
    assert not engine.has_work


def test_a_long_prompt_is_computed_in_chunks(
    make_engine: Make, make_request: Make, alone: Alone
) -> None:
    engine = make_engine(step_tokens=8)
    engine.add(make_request("r", prompt(0, 20), max_tokens=1))

    assert [engine.step() for _ in range(2)] == [[], []]
    [delta] = engine.step()

    assert list(delta.token_ids) == alone(prompt(0, 20), 1)


def test_requests_in_one_batch_get_what_each_gets_alone(
    make_engine: Make, make_request: Make, alone: Alone
) -> None:
    engine = make_engine(blocks=64)
    requests = [make_request(str(i), prompt(7 * i, 3 + 4 * i), max_tokens=9) for i in range(6)]

    news = run(engine, *requests)

    for request in requests:
        assert list(news[request.id].token_ids) == alone(list(request.prompt_token_ids), 9)


def test_any_number_of_requests_may_run_at_once(
    make_engine: Make, make_request: Make, alone: Alone
) -> None:
    engine = make_engine(blocks=200, running=50, step_tokens=400)
    requests = [make_request(str(i), prompt(i, 5)) for i in range(40)]

    news = run(engine, *requests)

    assert engine.stats().steps == 6
    for request in requests:
        assert list(news[request.id].token_ids) == alone(list(request.prompt_token_ids), 6)


def test_preempted_requests_get_what_they_get_alone(
    make_engine: Make, make_request: Make, alone: Alone
) -> None:
    engine = make_engine(blocks=10)
    requests = [make_request(str(i), prompt(7 * i, 9), max_tokens=20) for i in range(4)]

    news = run(engine, *requests)

    assert sum(delta.preemptions for delta in news.values()) == engine.stats().preemptions > 0
    for request in requests:
        assert list(news[request.id].token_ids) == alone(list(request.prompt_token_ids), 20)


def test_a_preempted_request_finds_its_own_blocks_again(
    make_engine: Make, make_request: Make
) -> None:
    recorder = Recorder()
    engine = make_engine(blocks=10)
    engine.add_observer(recorder)

    run(engine, *[make_request(str(i), prompt(7 * i, 9), max_tokens=20) for i in range(4)])

    computed = sum(record.mix.tokens for record in recorder.steps)
    fresh = 4 * (9 + 20 - 1)
    assert engine.stats().preemptions > 0
    assert fresh < computed < fresh + engine.stats().preemptions * 12


def test_a_prefix_in_the_cache_is_not_computed_again(
    make_engine: Make, make_request: Make, alone: Alone
) -> None:
    engine = make_engine()
    tokens = prompt(0, 13)
    cold = run(engine, make_request("cold", tokens))["cold"]

    warm = run(engine, make_request("warm", tokens))["warm"]
    other = run(engine, make_request("other", [*tokens[:5], 80, 81, 82, 83, 84]))["other"]

    assert (cold.cached_tokens, warm.cached_tokens, other.cached_tokens) == (0, 12, 4)
    assert warm.token_ids == cold.token_ids
    assert list(other.token_ids) == alone([*tokens[:5], 80, 81, 82, 83, 84], 6)
    assert engine.stats().prefix_hit_tokens == 16
    assert engine.stats().prefix_query_tokens == 13 + 13 + 10


def test_output_tokens_are_found_by_the_next_turn_of_a_conversation(
    make_engine: Make, make_request: Make
) -> None:
    engine = make_engine()
    first = run(engine, make_request("first", prompt(0, 6), max_tokens=11))["first"]

    turn = [*prompt(0, 6), *first.token_ids, 1, 2, 3]
    second = run(engine, make_request("second", turn))["second"]

    assert second.cached_tokens == 16


def test_a_salt_hides_a_prefix(make_engine: Make, make_request: Make) -> None:
    engine = make_engine()
    run(engine, make_request("cold", prompt(0, 13)))

    salted = replace(make_request("salted", prompt(0, 13)), cache_salt="tenant")

    assert run(engine, salted)["salted"].cached_tokens == 0


def test_prefix_caching_can_be_off(make_engine: Make, make_request: Make) -> None:
    engine = make_engine(prefix_caching=False)
    run(engine, make_request("a", prompt(0, 13)))

    assert run(engine, make_request("b", prompt(0, 13)))["b"].cached_tokens == 0
    assert engine.stats().idle_blocks == 0


def test_an_end_token_ends_the_output_and_is_not_shown(
    make_engine: Make, make_request: Make, alone: Alone
) -> None:
    expected = alone(prompt(0, 3), 10)
    engine = make_engine(eos_token_ids=[expected[3]])

    delta = run(engine, make_request("r", prompt(0, 3), max_tokens=10))["r"]

    assert list(delta.token_ids) == expected[:4]
    assert delta.text == "".join(chr(33 + t) for t in expected[:3])
    assert (delta.finish_reason, delta.stop_reason) == (FinishReason.STOP, None)


def test_an_end_token_can_be_ignored(make_engine: Make, make_request: Make, alone: Alone) -> None:
    expected = alone(prompt(0, 3), 10)
    engine = make_engine(eos_token_ids=[expected[3]])

    request = make_request("r", prompt(0, 3), max_tokens=10, ignore_eos=True)

    assert list(run(engine, request)["r"].token_ids) == expected


def test_a_stop_token_ends_the_output_and_is_named(
    make_engine: Make, make_request: Make, alone: Alone
) -> None:
    expected = alone(prompt(0, 3), 10)
    stop = {"stop_token_ids": (expected[2],), "max_tokens": 10}

    hidden = run(make_engine(), make_request("r", prompt(0, 3), **stop))["r"]
    shown = run(
        make_engine(), make_request("r", prompt(0, 3), include_stop_str_in_output=True, **stop)
    )["r"]

    assert (hidden.finish_reason, hidden.stop_reason) == (FinishReason.STOP, expected[2])
    assert (len(hidden.text), len(shown.text), len(shown.token_ids)) == (2, 3, 3)


def test_a_stop_string_ends_the_output_before_it_is_shown(
    make_engine: Make, make_request: Make, alone: Alone
) -> None:
    text = "".join(chr(33 + t) for t in alone(prompt(0, 3), 10))
    engine = make_engine()
    engine.add(make_request("r", prompt(0, 3), max_tokens=10, stop=(text[2:5],)))

    shown, last = "", None
    while engine.has_work:
        [last] = engine.step()
        shown += last.text
        assert text[:2].startswith(shown)

    assert last is not None and (shown, last.stop_reason) == (text[:2], text[2:5])
    assert (last.finish_reason, last.output_tokens) == (FinishReason.STOP, 5)


def test_end_tokens_and_stop_tokens_are_forbidden_until_min_tokens(
    make_engine: Make, make_request: Make
) -> None:
    forbidden: list[tuple[int, ...]] = []

    class Watch:
        def execute(self, batch: StepBatch) -> StepOutput:
            forbidden.extend(tuple(sorted(draw.forbidden)) for draw in batch.draws)
            return StepOutput([Sampled(5 if draw.forbidden else 7) for draw in batch.draws])

    engine = make_engine(eos_token_ids=[7])
    engine._executor = Watch()

    sampling = {"min_tokens": 2, "stop_token_ids": (3,), "max_tokens": 9}
    delta = run(engine, make_request("r", **sampling))["r"]

    assert forbidden == [(3, 7), (3, 7), ()]
    assert (delta.output_tokens, delta.finish_reason) == (3, FinishReason.STOP)


def test_max_tokens_is_cut_to_what_the_context_allows(
    make_engine: Make, make_request: Make
) -> None:
    engine = make_engine(max_model_len=10)

    delta = run(engine, make_request("r", prompt(0, 6), max_tokens=100))["r"]

    assert (delta.output_tokens, delta.finish_reason) == (4, FinishReason.LENGTH)


def test_a_prompt_without_room_for_output_is_refused_with_its_size_and_the_limit(
    make_engine: Make, make_request: Make
) -> None:
    engine = make_engine(max_model_len=10)

    engine.add(make_request("fits", prompt(0, 9)))
    with pytest.raises(ValueError, match=r"10 tokens.*context of 10 tokens.*shorten.* 9 tokens"):
        engine.add(make_request("long", prompt(0, 10)))


def test_token_ids_outside_the_vocabulary_are_refused(
    make_engine: Make, make_request: Make
) -> None:
    engine = make_engine()

    for wrong in (-1, 90):
        with pytest.raises(ValueError, match=f"prompt_token_ids holds {wrong}.*0 to 89"):
            engine.add(make_request("r", [1, wrong]))
    with pytest.raises(ValueError, match="logit_bias holds 90"):
        engine.add(make_request("r", [1], logit_bias={90: 1.0}))
    with pytest.raises(ValueError, match="stop_token_ids holds 91"):
        engine.add(make_request("r", [1], stop_token_ids=(91,)))
    assert not engine.has_work


def test_ids_of_live_requests_differ(make_engine: Make, make_request: Make) -> None:
    engine = make_engine()
    engine.add(make_request("r"))

    with pytest.raises(ValueError, match="'r' is in use"):
        engine.add(make_request("r"))


def test_a_pool_smaller_than_one_sequence_is_refused(make_engine: Make) -> None:
    with pytest.raises(ValueError, match=r"9 blocks of 4 tokens can't hold .* 40 tokens"):
        make_engine(blocks=9, max_model_len=40)


def test_aborts_end_a_request_wherever_it_is(make_engine: Make, make_request: Make) -> None:
    engine = make_engine(step_tokens=8, running=2)
    for id, size in (("running", 3), ("mid-prompt", 20), ("waiting", 3)):
        engine.add(make_request(id, prompt(0, size)))
    engine.step()

    deltas = [engine.abort(id) for id in ("running", "mid-prompt", "waiting")]

    assert [d.finish_reason for d in deltas] == [FinishReason.ABORT] * 3
    assert engine.abort("running") is None
    engine.audit()
    assert not engine.has_work and engine.stats().free_blocks == 16


def test_a_failed_step_ends_its_requests_only(
    make_engine: Make, make_request: Make, alone: Alone
) -> None:
    engine = make_engine(running=1)
    engine._executor.fail_steps = {2}
    engine.add(make_request("a", prompt(0, 5)))
    engine.add(make_request("b", prompt(0, 5)))

    engine.step()
    [failed] = engine.step()
    news = run(engine)

    assert (failed.request_id, failed.finish_reason) == ("a", FinishReason.ERROR)
    assert failed.error == "RuntimeError: step 2 was told to fail"
    assert list(news["b"].token_ids) == alone(prompt(0, 5), 6)
    assert news["b"].cached_tokens == 0  # what a failed step's request wrote is not trusted
    assert engine.stats().failed_steps == 1


def test_a_failed_row_ends_its_request_only(
    make_engine: Make, make_request: Make, alone: Alone
) -> None:
    engine = make_engine()
    bad, good = alone(prompt(0, 5), 6), alone(prompt(9, 5), 6)
    engine._executor.bad_tokens = {bad[2]} - set(good)

    news = run(engine, make_request("bad", prompt(0, 5)), make_request("good", prompt(9, 5)))

    assert (news["bad"].finish_reason, news["bad"].output_tokens) == (FinishReason.ERROR, 2)
    assert news["bad"].error == "this row was told to fail"
    assert list(news["good"].token_ids) == good
    again = run(engine, make_request("again", prompt(0, 5)), make_request("g2", prompt(9, 5)))
    assert again["again"].cached_tokens == 0  # what it wrote is not trusted
    assert again["g2"].cached_tokens == 4


def test_an_engine_whose_steps_fail_again_and_again_is_dead(
    make_engine: Make, make_request: Make
) -> None:
    engine = make_engine(running=1)
    engine._executor.fail_steps = {1, 2, 3}
    for id in "abc":
        engine.add(make_request(id))
    engine.step()
    engine.step()

    with pytest.raises(EngineDead, match=r"3 steps in a row failed.*step 3 was told"):
        engine.step()
    engine.audit()


def test_times_are_those_of_arrival_start_first_and_last_token(
    make_engine: Make, make_request: Make
) -> None:
    clock = VirtualClock(5.0)
    engine = make_engine(clock=clock)
    engine.add(make_request("r", max_tokens=2))

    clock.advance(1.0)
    [first] = engine.step()
    clock.advance(2.0)
    [last] = engine.step()

    assert (first.times.arrival_s, first.times.scheduled_s) == (5.0, 6.0)
    assert (last.times.first_token_s, last.times.last_token_s) == (6.0, 8.0)


def test_observers_hear_of_every_step_and_every_end(make_engine: Make, make_request: Make) -> None:
    recorder = Recorder()
    engine = make_engine(step_tokens=8)
    engine.add_observer(recorder)

    run(engine, make_request("a", prompt(0, 10), max_tokens=3), make_request("b", max_tokens=1))

    assert [record.mix.tokens for record in recorder.steps] == [8, 5, 1, 1]
    assert [record.mix.decodes for record in recorder.steps] == [0, 0, 1, 1]
    assert [record.running for record in recorder.steps] == [1, 1, 1, 0]
    assert [record.waiting for record in recorder.steps] == [1, 0, 0, 0]
    assert [record.prefix_query_tokens for record in recorder.steps] == [10, 3, 0, 0]
    assert [(end.request_id, end.output_tokens) for end in recorder.ends] == [("b", 1), ("a", 3)]


def test_an_observer_that_fails_is_logged_and_told_nothing_more(
    make_engine: Make, make_request: Make, caplog: pytest.LogCaptureFixture
) -> None:
    class Broken(Recorder):
        def on_step(self, record: StepRecord) -> None:
            super().on_step(record)
            raise RuntimeError("broken observer")

    engine, broken = make_engine(), Broken()
    engine.add_observer(broken)

    news = run(engine, make_request("r", max_tokens=3))

    assert news["r"].output_tokens == 3
    assert len(broken.steps) == 1 and "broken observer" in caplog.text


def test_a_policy_sees_running_requests_in_order_of_arrival(
    make_engine: Make, make_request: Make
) -> None:
    seen: list[list[str]] = []

    class Watch:
        def plan(self, snapshot: Snapshot) -> Plan:
            seen.append([live.request.id for live in snapshot.running])
            return baseline.plan(snapshot)

        def ended(self, request: Request, output_tokens: int, reason: FinishReason) -> None:
            assert not request.id, "no request ends in this test"

    engine = make_engine()
    baseline, engine._policy = engine._policy, Watch()
    for id, arrival_s in (("late", 3.0), ("early", 2.0)):
        engine.add(replace(make_request(id), arrival_s=arrival_s))
        engine.step()
    engine.step()

    assert seen == [[], ["late"], ["early", "late"]]


def test_waiting_requests_are_served_in_order_of_arrival_not_of_adding(
    make_engine: Make, make_request: Make
) -> None:
    engine = make_engine(running=1)
    for id, arrival_s in (("late", 3.0), ("early", 2.0)):
        engine.add(replace(make_request(id, max_tokens=1), arrival_s=arrival_s))

    assert [delta.request_id for _ in range(2) for delta in engine.step()] == ["early", "late"]
