"""Four replicas on M1 beside the simulator, what a parent costs, and what it adds to a first token.

Seconds, tokens.
"""

from __future__ import annotations

from dataclasses import replace
from statistics import fmean, median
from typing import Any

import numpy as np

from hfx.bench.attainment import Targets
from hfx.bench.workload import Prompt
from hfx.cost import named
from hfx.request import Sampling
from hfx.simulate import Job
from hfx.simulate.job import Fate
from hfx.simulate.setup import FleetSpec, PolicyName
from hfx.simulate.workload import MIXES, generated

from .fleet_load import PROFILE, Load, Traffic, fleet, metric, processor_s, replica_pids

REPLICAS = 4
RATE_RPS = 0.85 * 28.6  # of the rate at which least_loaded+fcfs_2048 keeps 90 % on M1
RUNNING, STEP_TOKENS = 256, 2048
OPEN_RPS, OPEN_PROMPT, OPEN_OUTPUT = 200.0, 32, 4
PARENT = "fleet_parent_cpu_seconds_total"
VOCABULARY = 40_000  # ids below are words of the bundled model's tokenizer


def m1(load: Load, seconds: float, seed: int = 0) -> dict[str, Any]:
    """Attainment through HTTP and in the simulator, and the parent's processor time."""
    jobs = [_known(job) for job in generated(MIXES["M1"], RATE_RPS, seconds, seed)]
    fates = _simulated(jobs)
    arguments = ("--max-num-seqs", str(RUNNING), "--max-num-batched-tokens", str(STEP_TOKENS))
    with fleet(REPLICAS, *arguments) as server:
        pid = server.process.pid
        parent_s = metric(server, PARENT)
        before = {each: processor_s(each) for each in (pid, *replica_pids(server))}
        run = load.run(server, _traffic(jobs, seed))
        parent_s = metric(server, PARENT) - parent_s
        used = {each: processor_s(each) - before_s for each, before_s in before.items()}
    real = [_targets(f.job).met(o) for f, o in zip(fates, run.outcomes, strict=True)]
    kept = fmean(all(met.values()) for met in real)
    simulated = fmean(fate.meets for fate in fates)
    return {
        "part": "m1",
        "requests": len(jobs),
        "failed": sum(not outcome.success for outcome in run.outcomes),
        "attainment": kept,
        "attainment_simulated": simulated,
        "attainment_minus_simulated": abs(kept - simulated),
        "ttft_p50_s": median(o.ttft_s for o in run.outcomes if o.success),
        "ttft_p50_simulated_s": median(fate.ttft_s for fate in fates),
        "parent_ms_per_request": 1e3 * parent_s / len(jobs),
        "server_ms_per_request": 1e3 * used[pid] / len(jobs),
        "output_tokens": fmean(job.output_tokens for job in jobs),
        "replica_core_fraction": sum(s for each, s in used.items() if each != pid)
        / run.duration_s
        / REPLICAS,
        "client_lag_ms": 1e3 * max(run.loop_lags_s, default=0.0),
    }


def added_ttft(load: Load, seconds: float, rounds: int = 3, seed: int = 0) -> dict[str, Any]:
    """TTFT at a fixed rate with the engine in the server's process and in one of its own.

    Both take turns, and the tail that is compared is the median of the rounds': on two cores a
    moment's company of another process makes a tail.
    """
    rng = np.random.default_rng(seed)
    times = np.cumsum(rng.exponential(1 / OPEN_RPS, int(OPEN_RPS * seconds)))
    prompts = [Prompt(token_ids(rng, OPEN_PROMPT), OPEN_OUTPUT) for _ in times]
    traffic = Traffic(prompts, [float(t) for t in times])
    rows: dict[str, list[dict[str, float]]] = {"direct": [], "fleet": []}
    for _ in range(rounds):
        for name, of in rows.items():
            of.append(_round(load, traffic, in_process=name == "direct"))
    found: dict[str, Any] = {"part": "added_ttft", "requests": rounds * len(prompts)}
    for name, of in rows.items():
        found |= {f"{key}_{name}": median(row[key] for row in of) for key in of[0]}
    found["parent_ms_per_request"] = found.pop("parent_ms_fleet")
    del found["parent_ms_direct"]
    found["added_ttft_p99_ms"] = found["ttft_p99_ms_fleet"] - found["ttft_p99_ms_direct"]
    return found


def _round(load: Load, traffic: Traffic, *, in_process: bool) -> dict[str, float]:
    count = len(traffic.prompts)
    with fleet(1, in_process=in_process) as server:
        load.run(server, Traffic(traffic.prompts[:100], traffic.arrivals_s[:100]))
        before_s, parent_s = processor_s(server.process.pid), metric(server, PARENT)
        run = load.run(server, traffic)
        used_s = processor_s(server.process.pid) - before_s
        parent_s = metric(server, PARENT) - parent_s
    ttft_s = [outcome.ttft_s for outcome in run.outcomes if outcome.success]
    return {
        "failed": count - len(ttft_s),
        "ttft_p50_ms": 1e3 * median(ttft_s),
        "ttft_p99_ms": 1e3 * float(np.quantile(ttft_s, 0.99)),
        "server_ms": 1e3 * used_s / count,
        "parent_ms": 1e3 * parent_s / count,
        "client_lag_ms": 1e3 * max(run.loop_lags_s, default=0.0),
    }


def _simulated(jobs: list[Job]) -> list[Fate]:
    spec = FleetSpec(
        profiles=[named(PROFILE)],
        replicas=REPLICAS,
        policy=PolicyName("hfx", "hfx", STEP_TOKENS),
    )
    return list(spec.fleet().run(jobs).fates)


def _known(job: Job) -> Job:
    """The same, ending at `max_tokens`, which is what ends an emulated answer."""
    sampling = Sampling(max_tokens=job.output_tokens)
    return replace(job, request=replace(job.request, sampling=sampling))


def _traffic(jobs: list[Job], seed: int) -> Traffic:
    rng = np.random.default_rng(seed)
    prompts = [
        Prompt(
            token_ids(rng, job.request.prompt_tokens),
            job.output_tokens,
            job.request.prompt_tokens,
            targets=_targets(job),
            body={"slo": _targets(job).slo} if _targets(job).slo else {},
        )
        for job in jobs
    ]
    return Traffic(prompts, [job.request.arrival_s for job in jobs])


def _targets(job: Job) -> Targets:
    promise = job.request.objective
    return Targets(ttft_s=promise.ttft_s, tpot_s=promise.tpot_s, e2el_s=promise.deadline_s)


def token_ids(rng: np.random.Generator, tokens: int) -> list[int]:
    """A random prompt of words."""
    return [int(i) for i in rng.integers(300, VOCABULARY, tokens)]
