"""When requests arrive: Poisson, Gamma, on/off, diurnal. Seconds from 0, requests per second.

All of them have the wanted rate on average; what differs is how it is spread.
"""

from __future__ import annotations

from typing import Literal

import numpy as np

Kind = Literal["poisson", "gamma", "onoff", "diurnal"]
KINDS: tuple[Kind, ...] = ("poisson", "gamma", "onoff", "diurnal")
ON_SHARE = 0.25  # of the time that an on/off source is on
ON_S = 15.0  # that it stays on, on average
DAY_PEAK = 0.92  # the highest rate of a day above its mean, over the mean (ServeGen, m-mid)


def arrivals_s(
    rng: np.random.Generator,
    kind: Kind,
    rate: float,
    seconds: float,
    *,
    cv: float = 2.5,
    day_s: float = 3600.0,
) -> list[float]:
    """Arrival times in order, all below `seconds`.

    "gamma" has gaps of coefficient of variation `cv`. "onoff" is a Poisson process that is on for
    a quarter of the time, in spells of about 15 s. "diurnal" rises and falls as a sine once in
    `day_s`, its peak 1.92 times its mean.

    Raises:
        ValueError: a number is not above 0, or there is no such process.
    """
    if not (rate > 0 and seconds > 0 and cv > 0 and day_s > 0):
        raise ValueError(
            f"rate {rate}, seconds {seconds}, cv {cv}, day {day_s}: each must be above 0"
        )
    if kind == "poisson":
        return _gamma(rng, rate, seconds, 1.0)
    if kind == "gamma":
        return _gamma(rng, rate, seconds, cv)
    if kind == "onoff":
        return _on_off(rng, rate, seconds)
    if kind == "diurnal":
        return _diurnal(rng, rate, seconds, day_s)
    raise ValueError(f"arrivals are {kind!r}: they must be one of {', '.join(KINDS)}")


def _gamma(rng: np.random.Generator, rate: float, seconds: float, cv: float) -> list[float]:
    shape = 1 / cv**2
    times: list[float] = []
    start_s = 0.0
    while start_s < seconds:
        gaps = rng.gamma(shape, 1 / (rate * shape), int(rate * seconds) + 64)
        more = start_s + np.cumsum(gaps)
        times.extend(more.tolist())
        start_s = float(more[-1])
    return [time for time in times if time < seconds]


def _on_off(rng: np.random.Generator, rate: float, seconds: float) -> list[float]:
    times: list[float] = []
    off_s = ON_S * (1 - ON_SHARE) / ON_SHARE
    at_s = 0.0 if rng.uniform() < ON_SHARE else float(rng.exponential(off_s))
    while at_s < seconds:
        on_s = float(rng.exponential(ON_S))
        count = int(rng.poisson(rate / ON_SHARE * on_s))
        times.extend(sorted((at_s + rng.uniform(0.0, on_s, count)).tolist()))
        at_s += on_s + float(rng.exponential(off_s))
    return [time for time in times if time < seconds]


def _diurnal(rng: np.random.Generator, rate: float, seconds: float, day_s: float) -> list[float]:
    """By thinning a Poisson process of the peak's rate."""
    times = np.asarray(_gamma(rng, rate * (1 + DAY_PEAK), seconds, 1.0))
    wave = 1 - DAY_PEAK * np.cos(2 * np.pi * times / day_s)
    kept: list[float] = times[rng.uniform(0.0, 1 + DAY_PEAK, len(times)) < wave].tolist()
    return kept
