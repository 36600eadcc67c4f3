"""When requests arrive: Poisson, Gamma, on/off, diurnal, a trace's clock. Seconds from 0, 1/s.

All of them have the wanted rate on average; what differs is how it is spread.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np

Kind = Literal["poisson", "gamma", "onoff", "diurnal"]
KINDS: tuple[Kind, ...] = ("poisson", "gamma", "onoff", "diurnal")
# An on/off source like Azure's code trace of 2023: at its rate gaps have a coefficient of variation
# of 13, a sixth of all minutes are empty, and the longest gap of an hour is about 200 s.
ON_SHARE = 0.25  # of the time that it is on
ON_S = 15.0  # that it stays on, on average

# Rates of a whole day in windows of 10 minutes, in thousandths of its mean: ServeGen's m-mid
# (Apache-2.0), the day without gaps in its record whose mean and peak are nearest to the usual.
# fmt: off
DAY = (
    820, 712, 894, 861, 791, 1592, 893, 715, 929, 838, 979, 933, 957, 910, 988, 912, 914, 1021,
    887, 1191, 1154, 1147, 1191, 1112, 1091, 1078, 1111, 1093, 1046, 1048, 1084, 1133, 1164, 1029,
    1041, 955, 938, 1001, 985, 987, 1026, 1048, 894, 1020, 1131, 1093, 1050, 1049, 1005, 1139, 1072,
    1151, 1158, 1188, 1219, 1176, 1126, 1139, 1119, 1179, 1245, 1166, 1207, 1260, 1161, 1133, 1022,
    957, 1108, 1132, 1211, 1167, 1104, 1168, 1253, 1282, 1366, 1252, 1308, 1257, 1311, 1248, 1417,
    1378, 1315, 1286, 1189, 961, 907, 1042, 999, 1090, 827, 667, 834, 1067, 847, 737, 910, 1028,
    1143, 1187, 842, 860, 962, 1060, 934, 641, 521, 465, 463, 488, 529, 689, 646, 704, 986, 1075,
    774, 1051, 661, 1223, 769, 727, 601, 1111, 1194, 1272, 651, 1327, 679, 922, 759, 1117, 1355,
    557, 936, 544, 1087, 871, 865, 838, 442, 550,
)
# fmt: on


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
    a quarter of the time, in spells of about 15 s. "diurnal" follows `DAY`, squeezed into `day_s`.

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
    day = np.asarray(DAY) / np.mean(DAY)
    peak = float(day.max())
    times = np.asarray(_gamma(rng, rate * peak, seconds, 1.0))
    window = (times / day_s % 1.0 * len(day)).astype(int)
    kept: list[float] = times[rng.uniform(0.0, peak, len(times)) < day[window]].tolist()
    return kept


def clocked_s(clock_s: Sequence[float], rate: float, seconds: float) -> list[float]:
    """A trace's own arrivals, faster or slower so that they have the rate; again when it ends.

    `clock_s` starts at 0 and is in order. Gaps keep their proportions.

    Raises:
        ValueError: the trace has no duration, or a number is not above 0.
    """
    if not (rate > 0 and seconds > 0):
        raise ValueError(f"rate {rate}, seconds {seconds}: each must be above 0")
    if len(clock_s) < 2 or not clock_s[-1] > 0:
        raise ValueError("the trace's arrivals all fall on one moment: take another clock")
    span_s = (len(clock_s) - 1) / rate
    once = np.asarray(clock_s[:-1]) * (span_s / clock_s[-1])  # the last begins the next round
    rounds = int(seconds / span_s) + 1
    times = (once + span_s * np.arange(rounds)[:, None]).ravel()
    return [float(time) for time in times[times < seconds]]


def spread_s(rng: np.random.Generator, times: Sequence[float], tick_s: float) -> list[float]:
    """Times that were rounded down to a tick, anywhere within it, in order of the ticks."""
    draws = rng.uniform(0.0, tick_s, len(times))
    return [time + float(draw) for time, draw in zip(times, draws, strict=True)]
