"""A measured vLLM run, and the same requests in the simulator. Seconds, tokens.

The run: 300 ShareGPT requests at 10 a second, Llama 3.1 8B on one RTX PRO 6000, vLLM 0.19, by
LLMServingSim (casys-kaist/LLMServingSim @5daddb21, MIT, bench/examples/RTXPRO6000). Its meta.json
says max_num_seqs 128 and max_num_batched_tokens 2048, and its requests agree: at most 128 run at
once. The profile is made from the same project's kernel tables; its one fitted constant, the 6 %
that an engine adds to its kernels, is known from this run: a replay with it checks form and sums,
and one without it ("kernels alone") shows how much hangs on it.
"""

from __future__ import annotations

import csv
import gzip
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from hfx.cache import Hit
from hfx.config import SchedulerConfig
from hfx.cost import StepCost, named
from hfx.cost.presets.make import ENGINE_SHARE
from hfx.request import Objective
from hfx.scheduler import build
from hfx.scheduler.dispatch_fixed import RoundRobin
from hfx.simulate import Fleet, Job, Replica
from hfx.simulate.device import Device
from hfx.simulate.flight import Flight
from hfx.simulate.memory import Counted

FILE = "engine_RTXPRO6000_Llama-3.1-8B.csv.gz"
PROFILE = "rtxpro6000-llama3.1-8b"
MAX_SEQS, STEP_TOKENS = 128, 2048
BLOCK_TOKENS = 16  # vLLM's: hits are multiples of it
KV_TOKENS = 500_000  # all 300 requests have 467,000 together: nobody waits for memory
PROMPT_S = 0.1  # who was scheduled within that did not wait for a place among the 128


@dataclass(frozen=True, slots=True)
class Times:
    """One request as it was served: seconds from the start of the run, or of the request."""

    ttft_s: float
    tpot_s: float
    last_s: float


@dataclass(frozen=True, slots=True)
class Measured:
    """One request of the run. `hit_tokens` is what vLLM's prefix cache had of its prompt."""

    arrival_s: float
    input_tokens: int
    output_tokens: int
    hit_tokens: int
    queue_s: float
    times: Times


class Recorded(Counted):
    """Memory whose prefix cache finds what was found in the run, whatever the order here."""

    def __init__(self, hit_tokens: Mapping[str, int]) -> None:
        super().__init__(KV_TOKENS // BLOCK_TOKENS, BLOCK_TOKENS)
        self._hit_tokens = hit_tokens

    def hit(self, flight: Flight) -> Hit:
        """As many blocks as then, all of them still to be taken."""
        blocks = self._hit_tokens.get(flight.live.request.id, 0) // BLOCK_TOKENS
        return Hit((0,) * blocks, blocks)

    def start(self, flight: Flight, hit: Hit) -> None:
        """Take the hit's blocks: here everybody has their own."""
        self.grow(flight, len(hit.blocks))


def measured(profiles: Path) -> list[Measured]:
    """The run, in order of arrival; `profiles` is the folder of its table.

    Raises:
        OSError: it isn't there.
    """
    with gzip.open(profiles / FILE, "rt", encoding="utf-8") as file:
        rows = [{k: float(v) for k, v in row.items()} for row in csv.DictReader(file)]
    return [_measured(row) for row in rows]


def _measured(row: Mapping[str, float]) -> Measured:
    first_s, last_s, output = row["first_token_s"], row["last_token_s"], int(row["output_tokens"])
    return Measured(
        arrival_s=row["arrival_s"],
        input_tokens=int(row["input_tokens"]),
        output_tokens=output,
        hit_tokens=int(row["prefix_hit_tokens_max"]),
        queue_s=row["scheduled_s"] - row["queued_s"],
        times=Times(first_s - row["arrival_s"], (last_s - first_s) / (output - 1), last_s),
    )


def replayed(
    run: Sequence[Measured],
    cost: StepCost,
    *,
    max_seqs: int = MAX_SEQS,
    step_tokens: int = STEP_TOKENS,
    respects_hits: bool = True,
    slowdown: float = 1.0,
) -> list[Times]:
    """The same requests, first come, first served as in vLLM, on one simulated replica."""
    jobs = [_job(i, one, respects_hits) for i, one in enumerate(run)]
    hits = {job.request.id: one.hit_tokens for job, one in zip(jobs, run, strict=True)}
    config = SchedulerConfig(
        scheduling_policy="fcfs", max_num_seqs=max_seqs, max_num_batched_tokens=step_tokens
    )
    replica = Replica(0, build(config, cost), Device(cost, slowdown=slowdown), Recorded(hits), cost)
    fates = Fleet([replica], RoundRobin()).run(jobs).fates
    found = {fate.job.request.id: fate for fate in fates}
    served = [found[job.request.id] for job in jobs]
    return [Times(fate.ttft_s, fate.tpot_s, fate.last_s or 0.0) for fate in served]


def _job(number: int, one: Measured, respects_hits: bool) -> Job:
    hash_ids = (number,) if one.hit_tokens and respects_hits else ()  # without, no hit is looked up
    id = f"{number:03d}"
    return Job.of(id, one.arrival_s, one.input_tokens, one.output_tokens, Objective(), hash_ids)


def errors(run: Sequence[Measured], served: Sequence[Times]) -> dict[str, float]:
    """Signed errors of the simulator as fractions of what was measured.

    `ttft_at_once` is over requests that waited for no place. There the simulator is early by 38 ms,
    about one step: vLLM 0.19 plans a step while the one before it runs, so that who arrives waits
    for one step more, and here nobody plans ahead.
    """
    real = [one.times for one in run]
    at_once = [i for i, one in enumerate(run) if one.queue_s < PROMPT_S]
    return {
        "tpot": _error([t.tpot_s for t in served], [t.tpot_s for t in real]),
        "makespan": max(t.last_s for t in served) / max(t.last_s for t in real) - 1,
        "ttft": _error([t.ttft_s for t in served], [t.ttft_s for t in real]),
        "ttft_at_once": _error(
            [served[i].ttft_s for i in at_once], [real[i].ttft_s for i in at_once]
        ),
    }


def _error(simulated: Sequence[float], real: Sequence[float]) -> float:
    return fmean(simulated) / fmean(real) - 1


def replay_errors(data: Path) -> list[dict[str, object]]:
    """A row of errors with the run's own settings first, then with one of them wrong: how much
    each matters."""
    run, cost = measured(data / "profiles"), named(PROFILE)
    variants: list[tuple[str, dict[str, Any]]] = [
        ("as it was", {}),
        ("kernels alone", {"slowdown": 1 / ENGINE_SHARE}),
        ("no prefix hits", {"respects_hits": False}),
        ("chunk 8192", {"step_tokens": 8192}),
        ("256 running", {"max_seqs": 256}),
    ]
    return [
        {"replay": name, **errors(run, replayed(run, cost, **options))}
        for name, options in variants
    ]
