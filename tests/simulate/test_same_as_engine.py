"""The simulator and the real engine: the same trace, the same plans at the same times."""

from collections.abc import Callable

import numpy as np
import pytest

from hfx.cache import BlockPool
from hfx.clock import VirtualClock
from hfx.config import SchedulerConfig
from hfx.cost import StepCost
from hfx.engine import Engine
from hfx.engine.emulated import EmulatedExecutor
from hfx.request import FinishReason, Objective, Plan, Request, Sampling
from hfx.scheduler import Snapshot, StepPolicy, build
from hfx.scheduler.dispatch_fixed import RoundRobin
from hfx.simulate import Fleet, Job, Replica
from hfx.simulate.job import HASH_TOKENS

Log = list[tuple[float, Plan]]


class Recorded:
    """A policy whose plans are written down."""

    def __init__(self, policy: StepPolicy) -> None:
        self.policy = policy
        self.log: Log = []

    def plan(self, snapshot: Snapshot) -> Plan:
        plan = self.policy.plan(snapshot)
        self.log.append((snapshot.now_s, plan))
        return plan

    def ended(self, request: Request, output_tokens: int, reason: FinishReason) -> None:
        self.policy.ended(request, output_tokens, reason)


def trace() -> list[Job]:
    """Two classes, shared prefixes, more than the pool holds at once, and hard deadlines."""
    rng = np.random.default_rng(11)
    promises = (
        Objective(ttft_s=0.3, tpot_s=0.03, tier="agent"),
        Objective(ttft_s=1.0, tpot_s=0.1, tier="chat"),
        Objective(deadline_s=2.0, on_miss="refuse", tier="batch"),
    )
    jobs, at_s = [], 0.0
    for n in range(70):
        at_s += float(rng.exponential(0.06))
        family = int(rng.integers(0, 4))
        hash_ids = (family, 100 + family, 1000 + n)
        length = int(rng.integers(1, len(hash_ids) * HASH_TOKENS))
        tokens = [(hash_id * 7919 + i) % 30_000 for hash_id in hash_ids for i in range(HASH_TOKENS)]
        output = int(rng.integers(1, 60))
        request = Request(
            id=f"r{n}",
            prompt_token_ids=tuple(tokens[:length]),
            sampling=Sampling(max_tokens=output),
            objective=promises[n % 3],
            arrival_s=at_s,
        )
        jobs.append(Job(request, output, hash_ids))
    return jobs


def engine_log(jobs: list[Job], policy: StepPolicy, cost: StepCost, blocks: int) -> Log:
    clock, recorded = VirtualClock(), Recorded(policy)
    executor = EmulatedExecutor(cost, [1, 2, 3], now_s=clock.now_s, wait=clock.advance)
    engine = Engine(
        executor,
        recorded,
        BlockPool(blocks, 64),
        lambda ids, skip: "",
        vocabulary=30_000,
        max_model_len=blocks * 64,
        clock=clock,
    )
    waiting = list(reversed(jobs))
    while waiting or engine.has_work:
        if not engine.has_work:
            clock.advance(max(0.0, waiting[-1].request.arrival_s - clock.now_s()))
        while waiting and waiting[-1].request.arrival_s <= clock.now_s():
            engine.add(waiting.pop().request)
        engine.step()
        engine.audit()
    return recorded.log


@pytest.mark.parametrize("policy", ["fcfs", "edf", "hfx", "qoserve_like", "scorpio_like"])
@pytest.mark.parametrize("blocks", [60, 1000])
def test_one_trace_gives_the_same_plans_in_engine_and_simulator(
    cost: StepCost, make_replica: Callable[..., Replica], policy: str, blocks: int
) -> None:
    jobs = trace()
    config = SchedulerConfig(
        scheduling_policy=policy,  # type: ignore[arg-type]
        max_num_seqs=256,
        max_num_batched_tokens=2048,
    )
    replica = make_replica(policy=policy, blocks=blocks, prefixes=True, jumps=False)
    replica.log = []

    real = engine_log(jobs, build(config, cost), cost, blocks)
    Fleet([replica], RoundRobin()).run(jobs)

    simulated = [(now_s, plan) for now_s, plan in replica.log if plan != Plan()]
    assert [plan for _, plan in simulated] == [plan for _, plan in real if plan != Plan()]
    assert [now_s for now_s, _ in simulated] == pytest.approx(
        [now_s for now_s, plan in real if plan != Plan()], abs=1e-9
    )
    assert replica.hit_tokens > 0
