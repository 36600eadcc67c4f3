"""Admission: what can be promised beside what has been, on prices that can be checked by hand.

A step costs 10 ms, and 1 ms more for each decode and each prompt token.
"""

from math import inf

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hfx.config import SchedulerConfig
from hfx.cost import StepCost
from hfx.request import Objective, Refused
from hfx.scheduler import Admission, FirstComeFirstServed, SlackPolicy, admission, reachable
from hfx.scheduler.demand import Demand, Prompt, Stream
from tests.scheduler.builders import decodes, make_request, snapshot, waits

IDLE = snapshot(0.0)


def refused(answer: Refused | None) -> Refused:
    assert answer is not None
    return answer


def test_an_idle_device_keeps_what_it_is_fast_enough_for(cost: StepCost) -> None:
    ours = Admission(cost)

    assert ours.answer(make_request("a", 100, ttft_s=0.2, tpot_s=0.02), IDLE) is None


def test_what_is_beyond_the_device_is_refused_for_good_with_the_best_there_is(
    cost: StepCost,
) -> None:
    answer = refused(Admission(cost).answer(make_request("a", 100, ttft_s=0.05), IDLE))

    assert "ttft_s of 0.05 s" in answer.reason
    assert answer.retry_after_s == inf
    assert answer.feasible["ttft_s"] == pytest.approx(0.11, rel=0.12)  # 110 ms for the prompt


def test_a_prefix_hit_makes_a_promise_feasible(cost: StepCost) -> None:
    request = make_request("a", 320, ttft_s=0.1)

    assert refused(Admission(cost).answer(request, IDLE)).retry_after_s == inf
    assert Admission(cost).answer(request, IDLE, cached_tokens=304) is None


def test_a_full_device_refuses_until_enough_streams_have_ended(cost: StepCost) -> None:
    # Each decode asks for 1 ms in 50, and the iterations for 10: at 40 streams nothing is left.
    streams = [decodes(f"{i:02d}", 1, tpot_s=0.05, hint=101) for i in range(38)]
    busy = snapshot(0.0, streams)

    answer = refused(Admission(cost).answer(make_request("a", 300, ttft_s=0.5), busy))

    assert "promises already given" in answer.reason
    assert 3.0 < answer.retry_after_s < 6.0  # they are to end after 100 tokens, at 5 s
    assert 3.0 < answer.feasible["ttft_s"] < 6.0


def test_the_best_feasible_value_can_be_had_and_less_can_not(cost: StepCost) -> None:
    streams = [decodes(f"{i:02d}", 1, tpot_s=0.05, hint=101) for i in range(30)]
    ours, busy = Admission(cost), snapshot(0.0, streams)

    best = refused(ours.answer(make_request("a", 300, ttft_s=0.5), busy)).feasible["ttft_s"]

    for accepted in (best, best * 1.01):
        assert ours.answer(make_request("a", 300, ttft_s=accepted), busy) is None
    assert ours.answer(make_request("a", 300, ttft_s=best * 0.9), busy) is not None


def test_promised_prompts_that_wait_count_and_lost_ones_do_not(cost: StepCost) -> None:
    request = make_request("a", 300, ttft_s=0.5)
    ahead = [waits("w", 300, ttft_s=0.4)]
    lost = [waits("w", 300, ttft_s=0.2)]

    assert Admission(cost).answer(request, snapshot(0.0, [], ahead)) is not None
    assert Admission(cost).answer(request, snapshot(0.0, [], lost)) is None


def test_what_does_not_fit_into_the_cache_waits_for_others_to_end(cost: StepCost) -> None:
    holder = decodes("h", 1, prompt=319, hint=41)  # 20 blocks, and 40 tokens at 11 ms to come
    full = snapshot(0.0, [holder], free=3)

    answer = refused(Admission(cost).answer(make_request("a", 100, ttft_s=0.3), full))

    assert "no room" in answer.reason
    assert answer.retry_after_s == pytest.approx(0.44, rel=0.1)


def test_an_outlook_grows_with_what_is_ahead(cost: StepCost) -> None:
    ours = Admission(cost)
    request = make_request("a", 100, ttft_s=1.0, tpot_s=0.1, hint=11)

    idle = ours.outlook(request, IDLE)
    busy = ours.outlook(
        request, snapshot(0.0, [decodes("d", 1, tpot_s=0.1)], [waits("w", 200, ttft_s=0.5)])
    )

    assert idle.ttft_s.mean_s == pytest.approx(0.12, abs=0.02)
    assert idle.tpot_s.mean_s == pytest.approx(0.011, abs=0.002)
    assert idle.finish_s.mean_s == pytest.approx(
        idle.ttft_s.mean_s + 10 * idle.tpot_s.mean_s, rel=0.01
    )
    assert busy.ttft_s.mean_s > idle.ttft_s.mean_s + 0.2
    assert busy.finish_s.upper_s >= busy.finish_s.mean_s


def test_a_tier_is_judged_on_an_idle_device(cost: StepCost) -> None:
    assert reachable(Objective(ttft_s=1.0, tpot_s=0.02), cost, 500, 100) is None

    answer = refused(reachable(Objective(tpot_s=0.005), cost, 500, 100))

    assert answer.retry_after_s == inf
    assert answer.feasible == {"tpot_s": pytest.approx(0.011)}


def test_admission_expects_what_its_policy_has_learned(cost: StepCost) -> None:
    config = SchedulerConfig()
    policy = SlackPolicy(cost)

    assert admission(config, cost, policy).lengths is policy.lengths
    plain = FirstComeFirstServed(max_step_tokens=64, max_running=8)
    assert admission(config, cost, plain).max_running == config.max_num_seqs


STREAMS = st.builds(
    Stream,
    st.floats(0.01, 5.0),
    st.sampled_from([0.02, 0.05, 0.3]),
    st.integers(1, 60).map(float),
    st.sampled_from([0.0, 0.001, 0.004]),
)
PROMPTS = st.builds(Prompt, st.floats(0.01, 8.0), st.floats(0.0, 1.0))


@settings(max_examples=100, deadline=None)
@given(st.lists(PROMPTS, max_size=6), st.lists(STREAMS, max_size=6), PROMPTS, STREAMS)
def test_demand_with_one_more_is_the_demand_of_all(
    prompts: list[Prompt], streams: list[Stream], prompt: Prompt, stream: Stream
) -> None:
    stream = Stream(prompt.due_s + stream.every_s, stream.every_s, stream.left, stream.each_s)
    some = Demand(0.0, 0.01, 0.9, prompts, streams)
    all_ = Demand(0.0, 0.01, 0.9, [*prompts, prompt], [*streams, stream])

    added = some.excess_with_s(prompt, stream)

    assert max(added, some.excess_s()) >= all_.excess_s() - 1e-6
    assert added <= all_.excess_s() + 1e-6


@given(st.lists(PROMPTS, min_size=1, max_size=6), st.lists(STREAMS, max_size=6))
def test_demand_counts_what_is_due_by_each_time(
    prompts: list[Prompt], streams: list[Stream]
) -> None:
    """Against the sum written down plainly, without the iterations' fixed cost."""
    demand = Demand(0.0, 0.0, 0.9, prompts, streams)
    times = [p.due_s for p in prompts] + [t for s in streams for t in (s.due_s, s.last_s)]

    def due_s(at_s: float) -> float:
        work_s = sum(p.work_s for p in prompts if p.due_s <= at_s)
        for stream in streams:
            tokens = sum(
                stream.due_s + k * stream.every_s <= at_s + 1e-9 * stream.every_s
                for k in range(int(stream.left))
            )
            work_s += tokens * stream.each_s
        return work_s

    plain = max(0.0, *(due_s(t) - 0.9 * t for t in times))
    assert demand.excess_s() == pytest.approx(plain, abs=1e-3)
