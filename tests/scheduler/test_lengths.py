"""Expected lengths of outputs, against the plain formula over what has ended."""

from math import exp

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hfx.scheduler.lengths import PRIOR_MEAN, PRIOR_WEIGHT, REMEMBERED, STRIDE, Survival


def expected(lengths: list[int], output_tokens: int) -> float:
    """By the ends that are remembered, at the table's point at or before that many tokens."""
    recent = lengths[-REMEMBERED:]
    at = output_tokens // STRIDE * STRIDE
    if at >= max(recent, default=0) + STRIDE:
        return PRIOR_MEAN
    longer = [length - at for length in recent if length > at]
    prior = PRIOR_WEIGHT * exp(-at / PRIOR_MEAN)
    return (sum(longer) + prior * PRIOR_MEAN) / (len(longer) + prior)


@given(st.lists(st.integers(1, 2000), max_size=40), st.integers(0, 2500))
def test_what_is_still_expected_is_the_mean_of_longer_outputs_and_a_prior(
    lengths: list[int], output_tokens: int
) -> None:
    survival = Survival()
    for length in lengths:
        survival.learn(length)

    assert survival.remaining(output_tokens) == pytest.approx(expected(lengths, output_tokens))
    points = [survival.remaining(at) for at in range(0, max(lengths, default=0) + 1, STRIDE)]
    assert survival.most == max(PRIOR_MEAN, *points)


def test_old_ends_are_forgotten_as_if_they_had_never_been() -> None:
    remembering, fresh = Survival(), Survival()
    recent = [1 + 7 * n % 900 for n in range(REMEMBERED)]

    for length in [5000, 16, 17, *recent]:
        remembering.learn(length)
    for length in recent:
        fresh.learn(length)

    for output_tokens in range(0, 6000, 5):
        assert remembering.remaining(output_tokens) == fresh.remaining(output_tokens)
    assert remembering.most == fresh.most
