import asyncio

import pytest

from hfx.bench.attainment import Share
from hfx.bench.sweep import Trial, cannot_reach, highest_rate


def search(share_at, **options):
    """A search over a server whose attainment at each rate is known; and what it was asked."""
    asked = []

    async def measure(rate, run):
        asked.append((rate, run))
        return share_at(rate)

    options = {"goal": 0.9, "start": 1.0, "tolerance": 0.05} | options
    return asyncio.run(highest_rate(measure, **options)), asked


def below(capacity):
    return lambda rate: (Share(1000 if rate <= capacity else 500, 1000), False)


@pytest.mark.parametrize("start", [0.1, 1.0, 5.3, 100.0])
def test_the_rate_is_found_to_within_the_tolerance_from_either_side(start):
    found, _ = search(below(5.3), start=start)

    assert found.passed <= 5.3 < found.failed
    assert found.failed / found.passed <= 1.05


def test_a_server_that_keeps_no_promise_has_no_rate():
    found, _ = search(lambda rate: (Share(0, 100), False))

    assert found.passed == 0 and found.failed < 1e-5


def test_a_rate_in_doubt_is_measured_again_and_then_decided_by_its_share():
    found, asked = search(lambda rate: (Share(91 if rate < 2 else 10, 100), False), runs=3)

    at_1 = [run for rate, run in asked if rate == 1.0]
    assert at_1 == [0, 1, 2]
    assert found.trials[0] == Trial(1.0, Share(273, 300), 3, False)
    assert found.trials[0].passes(0.9)


def test_a_clear_rate_is_measured_once():
    _, asked = search(below(1.0))

    assert {run for _, run in asked} == {0}


def test_a_trial_that_was_given_up_fails_whatever_its_share():
    found, _ = search(lambda rate: (Share(99, 100), rate > 3))

    assert found.passed <= 3 < found.failed


def test_a_running_trial_is_given_up_only_when_the_goal_is_out_of_reach():
    assert not cannot_reach(Share(0, 19), 0.9, 100)
    assert cannot_reach(Share(0, 20), 0.9, 100)
    assert not cannot_reach(Share(85, 100), 0.9, 100)
    assert cannot_reach(Share(70, 100), 0.9, 100)


def test_a_bad_beginning_that_the_rest_can_mend_does_not_end_a_trial():
    assert not cannot_reach(Share(10, 20), 0.9, 100)
    assert cannot_reach(Share(9, 20), 0.9, 100)


@pytest.mark.parametrize(
    "wrong", [{"goal": 1.0}, {"start": 0.0}, {"start": float("inf")}, {"tolerance": 0}, {"runs": 0}]
)
def test_a_search_that_can_not_end_is_refused(wrong):
    with pytest.raises(ValueError):
        search(below(1.0), **wrong)
