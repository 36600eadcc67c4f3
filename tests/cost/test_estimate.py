"""An estimate's bound is never below its mean."""

import pytest

from hfx.cost import Estimate


@pytest.mark.parametrize(("mean_s", "upper_s"), [(2.0, 1.0), (-1.0, 1.0), (float("nan"), 1.0)])
def test_a_contradictory_estimate_is_refused(mean_s: float, upper_s: float) -> None:
    with pytest.raises(ValueError, match="0 <= mean_s <= upper_s"):
        Estimate(mean_s, upper_s)


def test_mean_and_bound_may_be_equal() -> None:
    assert Estimate(1.0, 1.0).upper_s == 1.0
