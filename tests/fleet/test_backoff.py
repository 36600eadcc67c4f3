"""When a replica that has died is started again."""

from hfx.fleet.backoff import FIRST_S, HEALTHY_S, MOST_DEATHS, MOST_S, OPEN_S, Backoff


def test_each_death_in_a_row_waits_longer_until_the_circuit_opens() -> None:
    backoff = Backoff()

    waits = [backoff.died(None) for _ in range(MOST_DEATHS)]

    assert waits[:-1] == [FIRST_S * 2**n for n in range(MOST_DEATHS - 1)]
    assert max(waits[:-1]) <= MOST_S
    assert waits[-1] == OPEN_S and backoff.is_open


def test_one_that_was_healthy_in_between_starts_anew() -> None:
    backoff = Backoff()
    for _ in range(MOST_DEATHS - 1):
        backoff.died(0.0)

    assert backoff.died(HEALTHY_S) == FIRST_S
    assert not backoff.is_open


def test_an_open_circuit_closes_when_its_trial_is_well_and_says_so_once() -> None:
    backoff = Backoff()
    for _ in range(MOST_DEATHS):
        backoff.died(0.0)

    assert not backoff.is_well(HEALTHY_S / 2)
    assert backoff.is_well(HEALTHY_S)
    assert not backoff.is_well(2 * HEALTHY_S)


def test_a_trial_that_fails_opens_it_again() -> None:
    backoff = Backoff()
    for _ in range(MOST_DEATHS):
        backoff.died(0.0)

    assert backoff.died(HEALTHY_S / 2) == OPEN_S
