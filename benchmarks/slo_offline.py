"""What of the multi-SLO benchmark needs no server: the clairvoyant run, and a decision's time."""

from pathlib import Path
from typing import Any

from hfx.bench.workload import TokenPool
from hfx.config import SchedulerConfig
from hfx.cost import OnlineCost, StepCost, load
from hfx.request import Objective, Request, Sampling
from hfx.scheduler.policies import build

from .slo_replay import Job, Replay, clairvoyant, replay
from .slo_servers import OWN_CHUNK, RUNNING
from .slo_workload import WARM_S, Floor, Workload, workload


def replayed(
    profile: Path, floor: Floor, *, seed: int, rate: float, seconds: float, chunk: int
) -> dict[str, Any]:
    """Attainment of the run that the servers get, each step as long as this machine's prices say.

    `joint` is our policy's with every length known, `hfx` and `fcfs` are replayed without.
    """
    cost = load(profile)
    jobs = _jobs(workload(floor, _ANY_TOKENS, seed=seed, rate=rate, seconds=seconds))

    def step_s(mix: Any) -> float:
        return cost.step_s(mix).mean_s

    known = clairvoyant(jobs, _policy("hfx", OWN_CHUNK, cost), step_s)
    ours = replay(jobs, _policy("hfx", OWN_CHUNK, cost), step_s)
    fcfs = replay(jobs, _policy("fcfs", chunk, cost), step_s)
    return {"joint": _joint(known), "hfx": _joint(ours), "fcfs": _joint(fcfs)}


_ANY_TOKENS = TokenPool(tuple(range(1000)))


def _policy(name: Any, chunk: int, cost: StepCost) -> Any:
    config = SchedulerConfig(
        scheduling_policy=name, max_num_seqs=RUNNING, max_num_batched_tokens=chunk
    )
    return build(config, OnlineCost(cost))


def _jobs(wanted: Workload) -> list[Job]:
    made = []
    pairs = zip(wanted.prompts, wanted.arrivals_s, strict=True)
    for i, (prompt, arrival_s) in enumerate(pairs):
        objective = Objective(
            ttft_s=prompt.targets.ttft_s,
            tpot_s=prompt.targets.tpot_s,
            deadline_s=prompt.targets.e2el_s,
            tier=prompt.tier,
        )
        request = Request(
            id=f"{i:06}",
            prompt_token_ids=tuple(prompt.content),
            sampling=Sampling(max_tokens=prompt.output_tokens, ignore_eos=True),
            objective=objective,
            arrival_s=arrival_s,
        )
        made.append(Job(request, prompt.output_tokens))
    return made


def _joint(run: Replay) -> float:
    """Over what arrived after the warm-up, as live."""
    counted = [done.meets for done in run.served if done.job.request.arrival_s >= WARM_S]
    return sum(counted) / len(counted)
