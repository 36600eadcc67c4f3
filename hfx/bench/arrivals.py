"""When requests arrive, in seconds from the start: gamma processes, ramps, a trace's own clock.

Everything random comes from one `numpy` generator, so that a seed names a pattern.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Literal

import numpy as np

from hfx.traces import Row

RampUp = Literal["linear", "exponential"]


def arrival_times_s(
    rng: np.random.Generator, rates: Iterable[float], burstiness: float = 1.0
) -> list[float]:
    """When each request arrives; `rates` holds the requests per second that hold before each.

    Gaps are gamma distributed with shape `burstiness`: 1 is a Poisson process, below 1 comes in
    bursts (the gaps' coefficient of variation is 1 / sqrt(burstiness)), above 1 is more even.
    As vLLM does, the times are stretched so that the last falls where the rates say. An infinite
    rate is everything at once. One generator gives the same pattern at every rate, stretched.

    Raises:
        ValueError: a rate or the burstiness is not above 0.
    """
    wanted = np.asarray(list(rates), dtype=float)
    if not burstiness > 0:
        raise ValueError(f"burstiness is {burstiness}: it must be above 0")
    if not (wanted > 0).all():
        raise ValueError(f"request rate is {wanted.min()}: it must be above 0, or inf")
    means = 1.0 / wanted
    times = np.cumsum(rng.gamma(burstiness, means / burstiness))
    if len(times) and times[-1] > 0:
        times *= means.sum() / times[-1]
    return [float(time) for time in times]


def ramp(strategy: RampUp, start_rps: float, end_rps: float, count: int) -> list[float]:
    """The rate before each of `count` requests, from `start_rps` to `end_rps`.

    Raises:
        ValueError: a rate is not above 0.
    """
    if not (start_rps > 0 and end_rps > 0):
        raise ValueError(f"ramp-up from {start_rps} to {end_rps} requests/s: both must be above 0")
    space = np.linspace if strategy == "linear" else np.geomspace
    return [float(rate) for rate in space(start_rps, end_rps, count)]


def trace_times_s(
    rng: np.random.Generator, rows: Sequence[Row], *, speed: float = 1.0, jitter_s: float = 0.0
) -> list[float]:
    """The rows' own arrivals, `speed` times as fast, from 0.

    `jitter_s` adds a uniform draw below it to each (in the trace's own seconds), for traces whose
    clock ticks coarsely; the result may then be out of order.

    Raises:
        ValueError: a row has no arrival, speed is not above 0, or jitter is below 0.
    """
    if not speed > 0:
        raise ValueError(f"trace speed is {speed}: it must be above 0")
    if not jitter_s >= 0:
        raise ValueError(f"trace jitter is {jitter_s} s: it must be 0 or more")
    if any(row.arrival_s is None for row in rows):
        raise ValueError("this trace has lengths but no arrivals: give --request-rate instead")
    times = np.asarray([row.arrival_s for row in rows], dtype=float)
    if jitter_s:
        times = times + rng.uniform(0.0, jitter_s, len(times))
    return [float(time) for time in (times - times.min()) / speed] if len(times) else []
