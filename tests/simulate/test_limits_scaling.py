"""The least accelerator time of an elastic fleet: against every schedule there is, and a run."""

from itertools import product
from math import inf

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hfx.cost import StepCost
from hfx.request import Objective
from hfx.simulate import Job
from hfx.simulate.elastic import Scaling
from hfx.simulate.limits_scaling import ScalingLimit, Work, least_accelerator_s, work_of
from hfx.simulate.setup import FleetSpec, PolicyName
from hfx.simulate.starts import ColdStart
from hfx.simulate.summary import summarize

from .conftest import traffic


def at_once(*comes_s: float) -> Work:
    """Work that must be done in the slot in which it comes."""
    return Work(10.0, comes_s, comes_s)


def test_a_slots_work_takes_as_many_replicas_as_it_fills() -> None:
    limit = least_accelerator_s(at_once(5.0, 25.0, 10.0), start_s=3.0)

    assert limit == ScalingLimit(1 * 10 + 3 * 10 + 1 * 10 + 3 * 3, (1, 3, 1))


def test_a_replica_is_kept_through_a_gap_that_is_cheaper_than_a_start() -> None:
    assert least_accelerator_s(at_once(20.0, 10.0, 20.0), start_s=12.0, present=2) == ScalingLimit(
        60.0, (2, 2, 2)
    )
    assert least_accelerator_s(at_once(20.0, 10.0, 20.0), start_s=8.0, present=2) == ScalingLimit(
        58.0, (2, 1, 2)
    )


def test_work_that_can_wait_levels_the_fleet() -> None:
    work = Work(10.0, (20.0, 0.0), (10.0, 10.0))

    assert least_accelerator_s(work, start_s=5.0) == ScalingLimit(25.0, (1, 1))


def test_no_schedule_is_no_number() -> None:
    assert least_accelerator_s(at_once(30.0), start_s=1.0, most=2) == ScalingLimit(inf, ())
    with pytest.raises(ValueError, match="0 <= least <= most"):
        least_accelerator_s(at_once(30.0), start_s=1.0, least=3, most=2)


def cheapest(work: Work, start_s: float, least: int, most: int, present: int) -> float:
    """By trying every schedule."""
    best = inf
    for counts in product(range(least, most + 1), repeat=len(work.comes_s)):
        here, done, come, due, cost = present, 0.0, 0.0, 0.0, 0.0
        for n, count in enumerate(counts):
            come += work.comes_s[n]
            due += work.due_s[n]
            done = min(come, done + count * work.slot_s)
            cost += count * work.slot_s + max(0, count - here) * start_s
            here = count
            if done < due - 1e-6:
                cost = inf
        best = min(best, cost)
    return best


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_it_is_the_cheapest_of_all_schedules(data: st.DataObject) -> None:
    slots = data.draw(st.integers(1, 5))
    comes = [float(data.draw(st.integers(0, 30))) for _ in range(slots)]
    due, left = [], 0.0
    for n, come in enumerate(comes):
        left += come
        due.append(left if n == slots - 1 else float(data.draw(st.integers(0, int(left)))))
        left -= due[-1]
    work = Work(10.0, tuple(comes), tuple(due))
    start_s = data.draw(st.sampled_from([0.0, 3.0, 10.0, 25.0]))
    least, present = data.draw(st.integers(0, 1)), data.draw(st.integers(0, 3))

    limit = least_accelerator_s(work, start_s=start_s, least=least, most=3, present=present)

    assert limit.accelerator_s == pytest.approx(cheapest(work, start_s, least, 3, present))


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(0, 40), min_size=1, max_size=6), st.integers(0, 2))
def test_nothing_is_gained_by_more_replicas_than_it_thinks_of_itself(
    comes: list[int], least: int
) -> None:
    work = Work(10.0, tuple(map(float, comes)), (0.0,) * (len(comes) - 1) + (float(sum(comes)),))

    assert (
        least_accelerator_s(work, start_s=4.0, least=least).accelerator_s
        == least_accelerator_s(work, start_s=4.0, least=least, most=30).accelerator_s
    )


def test_work_comes_when_a_request_arrives_and_is_due_token_by_token(cost: StepCost) -> None:
    job = Job.of("a", 12.0, 1000, 201, Objective(ttft_s=3.0, tpot_s=0.1))

    work = work_of([job], cost)

    prompt_s, tokens_s = work.comes_s[1] - 200 * (work.due_s[2] / 100), work.due_s[2]
    assert work.comes_s[0] == work.due_s[0] == 0.0
    assert len(work.due_s) == 4  # tokens 50, 150 and 200 are due at 20, 30 and 35 s
    assert work.due_s[1] == pytest.approx(prompt_s + 49 * tokens_s / 100, rel=0.02)
    assert work.due_s[3] == pytest.approx(tokens_s / 2, rel=0.03)
    assert sum(work.due_s) == pytest.approx(sum(work.comes_s))


def test_work_without_a_promise_is_due_at_the_end(cost: StepCost) -> None:
    jobs = [
        Job.of("a", 1.0, 1000, 10, Objective()),
        Job.of("b", 35.0, 10, 1, Objective(deadline_s=10.0)),
    ]

    work = work_of(jobs, cost)

    assert [s > 0 for s in work.comes_s] == [True, False, False, True, False]
    assert [s > 0 for s in work.due_s] == [False, False, False, False, True]
    assert work.needed(0.5)[0] == work.comes_s[0] / 5


def test_a_run_that_keeps_most_promises_costs_more(cost: StepCost) -> None:
    jobs = traffic(500, rate=10.0)
    spec = FleetSpec(
        profiles=[cost],
        replicas=1,
        policy=PolicyName.parse("hfx"),
        scaling=Scaling(scaler="token_velocity", least=1, most=8, cold_start=ColdStart.taking(2.0)),
    )

    result = spec.fleet().run(jobs)
    limit = least_accelerator_s(work_of(jobs, cost), start_s=2.0, present=1)

    assert summarize(result, 50.0)["joint"] > 0.9
    assert 0 < limit.accelerator_s < result.accelerator_s
