"""What arrives: classes with promises, the mixes M1 to M3, and traces. Seconds, tokens.

Targets are for an 8B-class model on one accelerator with a decode step of about 11 ms.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from hfx.request import Objective
from hfx.traces import Row, read_trace

from .arrivals import Kind, arrivals_s
from .job import Job
from .lengths import ARXIV_SUMM, AZURE_CODE, AZURE_CONV, AZURE_CONV_SHORT, MOONCAKE, Lengths


@dataclass(frozen=True, slots=True)
class Class:
    """Requests of one kind: how long they are and what they are promised."""

    name: str
    lengths: Lengths
    objective: Objective


def _class(name: str, lengths: Lengths, ttft_s: float, tpot_s: float) -> Class:
    return Class(name, lengths, Objective(ttft_s=ttft_s, tpot_s=tpot_s, tier=name))


AGENT = _class("agent", AZURE_CONV_SHORT, 0.3, 0.030)
CODE = _class("code", AZURE_CODE, 0.5, 0.050)
CHAT = _class("chat", AZURE_CONV, 1.0, 0.100)
SUMM = _class("summ", ARXIV_SUMM, 5.0, 0.150)
LONG = _class("summ", MOONCAKE, 5.0, 0.150)
BATCH = Class("batch", AZURE_CONV, Objective(deadline_s=600.0, tier="batch"))

Mix = Sequence[tuple[Class, float]]
MIXES: Mapping[str, Mix] = {
    "M1": ((AGENT, 0.1), (CODE, 0.3), (CHAT, 0.4), (SUMM, 0.2)),
    "M2": ((AGENT, 0.2), (CODE, 0.5), (CHAT, 0.2), (SUMM, 0.1)),
    "M3": ((AGENT, 0.1), (CODE, 0.1), (CHAT, 0.3), (LONG, 0.4), (BATCH, 0.1)),
}


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
) -> list[Job]:
    """Traffic of a mix; each class arrives by a process of its own. One seed, one traffic.

    The same seed at another SLO scale gives the same requests.

    Raises:
        ValueError: see `arrivals_s`.
    """
    jobs: list[Job] = []
    for n, (class_, share) in enumerate(mix):
        rng = np.random.default_rng((seed, n))
        times = arrivals_s(rng, kind, rate * share, seconds, cv=cv)
        objective = scaled(class_.objective, slo_scale)
        lengths = class_.lengths.draw(rng, len(times))
        jobs += [
            Job.of(f"{class_.name}-{i}", time_s, prompt, output, objective)
            for i, (time_s, (prompt, output)) in enumerate(zip(times, lengths, strict=True))
        ]
    return sorted(jobs, key=lambda job: (job.request.arrival_s, job.request.id))


def replayed(
    path: Path,
    objective: Objective,
    *,
    rate: float | None = None,
    seconds: float | None = None,
    seed: int = 0,
) -> list[Job]:
    """A trace as it is: its own arrivals, faster or slower so that `rate` comes out on average.

    A trace without arrivals gets Poisson ones. `seconds` cuts it after so long.

    Raises:
        ValueError: the file is no trace, or it has no arrivals and no rate is given.
    """
    rows = read_trace(path)
    times = _times_s(rows, rate, seed)
    return [
        Job.of(f"trace-{n}", s, row.input_tokens, row.output_tokens, objective, row.hash_ids)
        for n, (row, s) in enumerate(zip(rows, times, strict=True))
        if seconds is None or s < seconds
    ]


def _times_s(rows: Sequence[Row], rate: float | None, seed: int) -> list[float]:
    last_s = rows[-1].arrival_s
    if last_s is None:
        if rate is None:
            raise ValueError("this trace has lengths but no arrivals: give a rate")
        rng = np.random.default_rng(seed)
        return [float(s) for s in np.cumsum(rng.exponential(1 / rate, len(rows)))]
    speed = 1.0 if rate is None or not last_s else rate * last_s / len(rows)
    return [(row.arrival_s or 0.0) / speed for row in rows]


def hinted(jobs: Sequence[Job], factor: float) -> list[Job]:
    """Every job with its length, times a factor, as a hint: 1 is what a clairvoyant knows."""
    return [job.hinted(factor) for job in jobs]
