"""The real server over an emulated device, and the simulator, on the same jobs. Seconds, tokens.

Both plan with the policy `hfx` by the same profile. The server is asked over HTTP by the client of
hfx.bench. The simulator is told two measured numbers: what a step costs its host, as the server
says of itself, and how much later than the server the client sees a first token, from requests one
at a time before the load.
"""

from __future__ import annotations

import asyncio
import re
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import fmean, median
from typing import Any

import aiohttp
import numpy as np

from hfx.bench.attainment import NO_TARGETS, Targets
from hfx.bench.client import Target
from hfx.bench.load import Run, open_session, run_load
from hfx.bench.outcome import Outcome
from hfx.bench.server import Unusable, models, served_pool
from hfx.bench.workload import Prompt, TokenPool
from hfx.cost import named
from hfx.request import Sampling
from hfx.simulate import Job
from hfx.simulate.job import Fate
from hfx.simulate.setup import FleetSpec, PolicyName
from hfx.simulate.workload import MIXES, generated

from .process import ServerProcess, free_port, serving

PROFILE = "rtxpro6000-llama3.1-8b"
RATE_RPS = 0.85 * 28.6 / 4  # of the rate at which least_loaded+fcfs_2048 keeps 90 % on M1
SECONDS = 90.0
RUNNING, STEP_TOKENS = 256, 2048
START_S = 120.0
ALONE_REQUESTS, ALONE_TOKENS, ALONE = 20, 1000, Targets(ttft_s=5.0, tpot_s=0.1)


@dataclass(frozen=True, slots=True)
class Pair:
    """One run on the server and one in the simulator, of the same jobs in the same order."""

    host_s: float
    api_s: float
    outcomes: Sequence[Outcome]
    fates: Sequence[Fate]
    client_lag_s: float  # the worst of the client's own loop, which a server must not be blamed for


def pair(*, rate: float = RATE_RPS, seconds: float = SECONDS, seed: int = 0) -> Pair:
    """Measure and simulate M1 at a rate; takes as long as the traffic and some seconds more.

    Raises:
        RuntimeError: the server ended.
    """
    jobs = [_known(job) for job in generated(MIXES["M1"], rate, seconds, seed)]
    port = free_port()
    with serving(command(port), port) as server:
        host_s, api_s, run = asyncio.run(_measured(server, jobs, seed))
    fates = simulated(jobs, host_s)
    return Pair(host_s, api_s, run.outcomes, fates, max(run.loop_lags_s, default=0.0))


def command(port: int) -> list[str]:
    """The server under measurement."""
    words = [sys.executable, "-m", "hfx.serve", "--port", str(port)]
    words += ["--device", f"emulated:{PROFILE}", "--max-num-seqs", str(RUNNING)]
    return [*words, "--max-num-batched-tokens", str(STEP_TOKENS)]


def simulated(jobs: Sequence[Job], host_s: float) -> list[Fate]:
    """The same jobs on one simulated replica, in order of arrival."""
    spec = FleetSpec(
        profiles=[named(PROFILE)],
        policy=PolicyName("round_robin", "hfx", STEP_TOKENS),
        host_s=host_s,
    )
    return list(spec.fleet().run(jobs).fates)


def figures(found: Pair) -> dict[str, Any]:
    """Attainment and TTFT of both, and how far they are apart."""
    real = [targets(f.job).met(o) for f, o in zip(found.fates, found.outcomes, strict=True)]
    kept = fmean(all(met.values()) for met in real)
    joint = fmean(fate.meets for fate in found.fates)
    server_s = median(outcome.ttft_s for outcome in found.outcomes if outcome.success)
    own_s = median(_server_ttft_s(o) for o in found.outcomes if o.success)
    simulator_s = median(fate.ttft_s for fate in found.fates)
    return {
        "requests": len(found.fates),
        "failed": sum(not outcome.success for outcome in found.outcomes),
        "host_ms": found.host_s * 1e3,
        "api_ms": found.api_s * 1e3,
        "attainment_emulated": kept,
        "attainment_simulated": joint,
        "emulated_minus_simulated": abs(kept - joint),
        "ttft_p50_emulated_s": server_s,
        "ttft_p50_simulated_s": simulator_s,
        "ttft_p50_ratio": server_s / (simulator_s + found.api_s),
        "ttft_p50_ratio_at_server": own_s / simulator_s,
        "client_lag_ms": found.client_lag_s * 1e3,
    }


def targets(job: Job) -> Targets:
    """What a job was promised, as hfx.bench judges it."""
    promise = job.request.objective
    return Targets(ttft_s=promise.ttft_s, tpot_s=promise.tpot_s, e2el_s=promise.deadline_s)


def _known(job: Job) -> Job:
    """The same, ending at `max_tokens`: over HTTP that is what ends an emulated answer, so that
    policies know of it here too."""
    sampling = Sampling(max_tokens=job.output_tokens)
    return replace(job, request=replace(job.request, sampling=sampling))


def _server_ttft_s(outcome: Outcome) -> float:
    """As the server saw it: from the request's arrival there."""
    return float(outcome.metrics["time_to_first_token_ms"]) / 1e3


async def _measured(
    server: ServerProcess, jobs: Sequence[Job], seed: int
) -> tuple[float, float, Run]:
    """Host time of a step, delay of a first token on its way to the client, and the run."""
    rng = np.random.default_rng(seed)
    async with open_session() as session:
        model = await _model(session, server)
        target = Target(base_url=server.base_url, model=model, ignore_eos=True)
        pool = await served_pool(session, target)
        few = [_prompt(pool, rng, ALONE_TOKENS, 2, ALONE) for _ in range(ALONE_REQUESTS)]
        alone = await run_load(session, target, few, max_concurrency=1)
        api_s = median(o.ttft_s - _server_ttft_s(o) for o in alone.outcomes if o.success)
        prompts = [
            _prompt(pool, rng, job.request.prompt_tokens, job.output_tokens, targets(job))
            for job in jobs
        ]
        arrivals_s = [job.request.arrival_s for job in jobs]
        run = await run_load(session, target, prompts, arrivals_s=arrivals_s)
        return await _host_s(session, server.base_url), api_s, run


async def _host_s(session: aiohttp.ClientSession, base_url: str) -> float:
    """How long a step that holds prompts kept the device waiting for its host, on the mean.

    Such steps decide when first tokens come; those of decodes alone have time to spare.
    """
    async with session.get(f"{base_url}/metrics") as response:
        text = await response.text()
    form = r'^hfx:emulated_host_seconds_%s{.*regime="mixed"} (\S+)$'
    total, count = (re.findall(form % name, text, re.M)[0] for name in ("sum", "count"))
    return float(total) / float(count)


def _prompt(
    pool: TokenPool,
    rng: np.random.Generator,
    tokens: int,
    output: int,
    promised: Targets = NO_TARGETS,
) -> Prompt:
    content = pool.draw(rng, tokens, as_text=False)
    body = {"slo": promised.slo} if promised.slo else {}
    return Prompt(content, output, tokens, targets=promised, body=body)


async def _model(session: aiohttp.ClientSession, server: ServerProcess) -> str:
    ends_s = time.monotonic() + START_S
    while True:
        server.check()
        try:
            return (await models(session, server.base_url, {}, 0.0)).ids[0]
        except Unusable:
            if time.monotonic() > ends_s:
                raise
            await asyncio.sleep(0.1)
