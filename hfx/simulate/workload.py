"""What arrives: classes with promises, the mixes M1 to M3, and traces. Seconds, tokens.

Targets are for an 8B-class model on one accelerator with a decode step of about 11 ms.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from hfx.request import Objective
from hfx.traces import Row, read_trace, tick_s

from .arrivals import Kind, arrivals_s, clocked_s, spread_s
from .job import Job
from .lengths import (
    ARXIV_SUMM,
    AZURE_CODE,
    AZURE_CONV,
    AZURE_CONV_SHORT,
    MOONCAKE,
    SHAREGPT_LONG,
    LengthSource,
    RowLengths,
)


@dataclass(frozen=True, slots=True)
class Class:
    """Requests of one kind: how long they are and what they are promised."""

    name: str
    lengths: LengthSource
    objective: Objective


def _class(name: str, lengths: LengthSource, ttft_s: float, tpot_s: float) -> Class:
    return Class(name, lengths, Objective(ttft_s=ttft_s, tpot_s=tpot_s, tier=name))


AGENT = _class("agent", AZURE_CONV_SHORT, 0.3, 0.030)
CODE = _class("code", AZURE_CODE, 0.5, 0.050)
CHAT = _class("chat", AZURE_CONV, 1.0, 0.100)
SUMM = _class("summ", ARXIV_SUMM, 5.0, 0.150)
LONG = _class("summ", MOONCAKE, 5.0, 0.150)
BATCH = Class("batch", SHAREGPT_LONG, Objective(deadline_s=600.0, tier="batch"))

Mix = Sequence[tuple[Class, float]]
MIXES: Mapping[str, Mix] = {
    "M1": ((AGENT, 0.1), (CODE, 0.3), (CHAT, 0.4), (SUMM, 0.2)),
    "M2": ((AGENT, 0.2), (CODE, 0.5), (CHAT, 0.2), (SUMM, 0.1)),
    "M3": ((AGENT, 0.1), (CODE, 0.1), (CHAT, 0.3), (LONG, 0.4), (BATCH, 0.1)),
}


AGENT_INPUT, AGENT_OUTPUT = 512, 256  # tokens: the longest that an agent's requests are
BATCH_OUTPUT = 512  # tokens: the shortest that a batch's outputs are


def from_rows(mix: Mix, data: Path) -> Mix:
    """The same mix, every class with lengths of the published traces' own rows.

    `data` is the folder of `azure2023_conv.csv.gz` and the others, or the one above `traces/`.

    Raises:
        ValueError: a trace is not there, or can't be read.
    """
    return tuple((replace(class_, lengths=_row_lengths(class_, data)), x) for class_, x in mix)


def _row_lengths(class_: Class, data: Path) -> RowLengths:
    name = SOURCES[class_.lengths]
    rows = read_trace(_trace_file(data, name))
    if class_.name == "agent":
        rows = [
            row
            for row in rows
            if row.input_tokens <= AGENT_INPUT and row.output_tokens <= AGENT_OUTPUT
        ]
    elif class_.name == "batch":
        rows = [row for row in rows if row.output_tokens >= BATCH_OUTPUT]
    return RowLengths(rows)


SOURCES: Mapping[LengthSource, str] = {
    AZURE_CONV_SHORT: "azure2023_conv",
    AZURE_CODE: "azure2023_code",
    AZURE_CONV: "azure2023_conv",
    ARXIV_SUMM: "arxiv_summ_lengths",
    MOONCAKE: "mooncake_conversation",
    SHAREGPT_LONG: "sharegpt_8k_lengths",
}


def _trace_file(data: Path, name: str) -> Path:
    for folder in (data, data / "traces"):
        for ending in (".csv.gz", ".csv"):
            if (path := folder / f"{name}{ending}").is_file():
                return path
    raise ValueError(
        f"{data} has no {name}.csv.gz, nor has its folder traces: give the folder that holds the "
        "published traces, or leave --data out for lengths from their statistics"
    )


def scaled(objective: Objective, scale: float) -> Objective:
    """The same promise, every target times `scale`."""

    def times(value: float | None) -> float | None:
        return None if value is None else value * scale

    return replace(
        objective,
        ttft_s=times(objective.ttft_s),
        tpot_s=times(objective.tpot_s),
        deadline_s=times(objective.deadline_s),
    )


def generated(
    mix: Mix,
    rate: float,
    seconds: float,
    seed: int,
    *,
    kind: Kind = "poisson",
    cv: float = 2.5,
    slo_scale: float = 1.0,
    day_s: float = 3600.0,
    clock_s: Sequence[float] | None = None,
) -> list[Job]:
    """Traffic of a mix; each class arrives by a process of its own. One seed, one traffic.

    With `clock_s`, a trace's arrivals from 0, all classes together keep that trace's clock instead,
    each arrival of a class drawn by the shares. The same seed at another SLO scale gives the same
    requests.

    Raises:
        ValueError: see `arrivals_s` and `clocked_s`.
    """
    jobs: list[Job] = []
    shared = None if clock_s is None else _dealt(mix, clocked_s(clock_s, rate, seconds), seed)
    for n, (class_, share) in enumerate(mix):
        rng = np.random.default_rng((seed, n))
        if shared is None:
            times = arrivals_s(rng, kind, rate * share, seconds, cv=cv, day_s=day_s)
        else:
            times = shared[n]
        objective = scaled(class_.objective, slo_scale)
        lengths = class_.lengths.draw(rng, len(times))
        jobs += [
            Job.of(f"{class_.name}-{i}", time_s, prompt, output, objective)
            for i, (time_s, (prompt, output)) in enumerate(zip(times, lengths, strict=True))
        ]
    return sorted(jobs, key=lambda job: (job.request.arrival_s, job.request.id))


def _dealt(mix: Mix, times: Sequence[float], seed: int) -> list[list[float]]:
    """The arrivals of each class."""
    rng = np.random.default_rng((seed, len(mix)))
    shares = np.asarray([share for _, share in mix])
    drawn = rng.choice(len(mix), len(times), p=shares / shares.sum())
    at = np.asarray(times)
    return [at[drawn == n].tolist() for n in range(len(mix))]


def clock_of(path: Path, seed: int = 0) -> list[float]:
    """A trace's arrivals from 0, in order, those of a rounded clock spread over its ticks.

    Raises:
        ValueError: the file is no trace, or has lengths alone.
    """
    times = _own_times_s(read_trace(path), None, seed)
    if times is None:
        raise ValueError(f"{path} has lengths but no arrivals: it is no clock, take another trace")
    times.sort()
    return [time - times[0] for time in times]


def replayed(
    path: Path,
    objective: Objective,
    *,
    rate: float | None = None,
    seconds: float | None = None,
    seed: int = 0,
    jitter_s: float | None = None,
) -> list[Job]:
    """A trace as it is: its own arrivals, faster or slower so that `rate` comes out on average.

    A trace without arrivals gets Poisson ones. `seconds` cuts it after so long. Arrivals move by
    less than `jitter_s` of the trace's own seconds; None: as much as its clock was rounded.

    Raises:
        ValueError: the file is no trace, or it has no arrivals and no rate is given.
    """
    rows = read_trace(path)
    times = _times_s(rows, rate, jitter_s, seed)
    return [
        Job.of(f"trace-{n}", s, row.input_tokens, row.output_tokens, objective, row.hash_ids)
        for n, (row, s) in enumerate(zip(rows, times, strict=True))
        if seconds is None or s < seconds
    ]


def _times_s(
    rows: Sequence[Row], rate: float | None, jitter_s: float | None, seed: int
) -> list[float]:
    own = _own_times_s(rows, jitter_s, seed)
    if own is None:
        if rate is None:
            raise ValueError("this trace has lengths but no arrivals: give a rate")
        rng = np.random.default_rng(seed)
        return [float(s) for s in np.cumsum(rng.exponential(1 / rate, len(rows)))]
    last_s = max(own)
    speed = 1.0 if rate is None or not last_s else rate * last_s / len(rows)
    return [time / speed for time in own]


def _own_times_s(rows: Sequence[Row], jitter_s: float | None, seed: int) -> list[float] | None:
    """None where they have no clock."""
    if rows[0].arrival_s is None:
        return None
    times = [row.arrival_s or 0.0 for row in rows]
    tick = tick_s(rows) if jitter_s is None else jitter_s
    return spread_s(np.random.default_rng((seed, 1)), times, tick) if tick else times


def hinted(jobs: Sequence[Job], factor: float) -> list[Job]:
    """Every job with its length, times a factor, as a hint: 1 is what a clairvoyant knows."""
    return [job.hinted(factor) for job in jobs]
