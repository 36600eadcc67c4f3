"""Work that can be left out gets its share of the time and no more."""

import pytest

from hfx.engine.allowance import Allowance
from hfx.engine.async_engine import _spread


def test_a_burst_may_be_spent_at_once_and_then_waits_for_its_share() -> None:
    allowance = Allowance(share=0.1, burst_s=1.0)

    assert allowance.has_time(100.0)
    allowance.spend(101.5)  # half a second is owed

    assert not allowance.has_time(106.0)
    assert allowance.has_time(107.0)


def test_no_more_than_the_burst_is_saved() -> None:
    allowance = Allowance(share=0.5, burst_s=1.0)
    assert allowance.has_time(0.0)
    assert allowance.has_time(1000.0)
    allowance.spend(1001.0)

    assert not allowance.has_time(1001.0)


def test_in_the_long_run_the_share_is_kept() -> None:
    allowance = Allowance(share=0.02, burst_s=0.1)
    now_s = spent_s = 0.0

    while now_s < 1000:
        if allowance.has_time(now_s):
            now_s, spent_s = now_s + 0.036, spent_s + 0.036
            allowance.spend(now_s)
        now_s += 0.01

    assert spent_s == pytest.approx(0.02 * 1000, rel=0.03)


@pytest.mark.parametrize(
    ("count", "places"), [(1, {0}), (2, {0, 1}), (4, {0, 1, 2, 3}), (9, {0, 3, 5, 8})]
)
def test_few_places_of_many_hold_the_first_and_the_last(count: int, places: set[int]) -> None:
    assert _spread(count, 4) == places
