import math

import numpy as np
import pytest

from hfx.bench.arrivals import arrival_times_s, ramp, trace_times_s
from hfx.traces import Row


def rng():
    return np.random.default_rng(7)


@pytest.mark.parametrize("burstiness", [0.25, 1.0, 4.0])
def test_gaps_have_the_asked_mean_and_a_variation_of_one_over_root_burstiness(burstiness):
    times = arrival_times_s(rng(), [5.0] * 20_000, burstiness)

    gaps = np.diff(times)

    assert times[-1] == pytest.approx(20_000 / 5.0)
    assert gaps.mean() == pytest.approx(0.2, rel=0.01)
    assert gaps.std() / gaps.mean() == pytest.approx(1 / math.sqrt(burstiness), rel=0.05)


def test_poisson_gaps_are_exponential_in_the_tail():
    gaps = np.diff(arrival_times_s(rng(), [1.0] * 20_000))

    assert (gaps > 2.0).mean() == pytest.approx(math.exp(-2.0), abs=0.01)


def test_an_infinite_rate_is_everything_at_once():
    assert arrival_times_s(rng(), [math.inf] * 3) == [0.0, 0.0, 0.0]


def test_a_linear_ramp_packs_requests_toward_the_end():
    rates = ramp("linear", 1.0, 9.0, 801)

    times = arrival_times_s(rng(), rates)

    assert (rates[0], rates[400], rates[-1]) == (1.0, 5.0, 9.0)
    assert times[400] > times[-1] / 2


def test_an_exponential_ramp_multiplies_by_the_same_factor_each_time():
    assert ramp("exponential", 1.0, 100.0, 3) == pytest.approx([1.0, 10.0, 100.0])


@pytest.mark.parametrize("rates", [[0.0], [-1.0]])
def test_a_rate_that_is_not_above_0_is_refused(rates):
    with pytest.raises(ValueError, match="above 0"):
        arrival_times_s(rng(), rates)


def test_the_same_seed_is_the_same_pattern_at_every_rate():
    slow, fast = (arrival_times_s(rng(), [rate] * 50) for rate in (1.0, 4.0))

    assert [time / 4 for time in slow] == pytest.approx(fast)


def rows(*arrivals_s):
    return [Row(at_s, 1, 1) for at_s in arrivals_s]


def test_a_trace_keeps_its_own_clock_from_0_and_can_be_hurried():
    assert trace_times_s(rng(), rows(5.0, 6.0, 9.0), speed=2.0) == [0.0, 0.5, 2.0]


def test_jitter_spreads_a_coarse_clock_evenly_over_its_tick():
    times = np.asarray(trace_times_s(rng(), rows(*[0.0] * 5000), jitter_s=3.0))

    assert (times.min(), times.max() < 3.0) == (0.0, True)
    assert times.mean() == pytest.approx(1.5, abs=0.05)


def test_lengths_without_arrivals_have_no_clock_to_replay():
    with pytest.raises(ValueError, match="give --request-rate"):
        trace_times_s(rng(), rows(None))


@pytest.mark.parametrize(("speed", "jitter_s"), [(0.0, 0.0), (1.0, -1.0)])
def test_a_trace_is_not_replayed_at_no_speed_or_backwards(speed, jitter_s):
    with pytest.raises(ValueError, match="it must be"):
        trace_times_s(rng(), rows(0.0), speed=speed, jitter_s=jitter_s)
