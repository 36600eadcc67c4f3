"""Requests that share prefixes in a pool too small for them, through the real engine and pool."""

from dataclasses import replace

import numpy as np
import pytest

from hfx.cache import BlockPool
from hfx.clock import VirtualClock
from hfx.config import SchedulerConfig
from hfx.cost import StepCost, preset
from hfx.engine import Engine
from hfx.engine.emulated import EmulatedExecutor
from hfx.request import FinishReason, Objective, Request, Sampling
from hfx.scheduler import POLICIES, build

BLOCK_TOKENS = 16
PROMISES = (
    Objective(ttft_s=0.05, tpot_s=0.03, tier="agent"),
    Objective(ttft_s=1.0, tpot_s=0.1, tier="chat"),
    Objective(tier="none"),
)


def crowd(seed: int, blocks: int) -> list[Request]:
    """Bursts of requests whose prompts begin alike, each of which alone fits into the pool."""
    rng = np.random.default_rng(seed)
    requests, at_s = [], 0.01
    for n in range(40):
        at_s += float(rng.exponential(0.03))
        most = blocks * BLOCK_TOKENS // 2
        shared = [int(rng.integers(0, 3))] * int(rng.integers(0, most))
        own = [int(token) for token in rng.integers(10, 1000, int(rng.integers(1, 40)))]
        requests.append(
            Request(
                id=f"r{n}",
                prompt_token_ids=tuple(shared + own),
                sampling=Sampling(max_tokens=int(rng.integers(1, 80)), ignore_eos=True),
                objective=replace(PROMISES[n % 3]),
                arrival_s=at_s,
            )
        )
    return requests


@pytest.fixture(scope="module")
def cost() -> StepCost:
    return preset("rtxpro6000-llama3.1-8b")


@pytest.mark.parametrize(
    ("policy", "seed"), [(policy, 1) for policy in POLICIES] + [("hfx", 3), ("hfx", 5)]
)
def test_no_plan_takes_blocks_that_a_prefix_hit_still_needs(
    policy: str, seed: int, cost: StepCost
) -> None:
    blocks = 12 + 6 * seed
    clock = VirtualClock()
    limits = SchedulerConfig(max_num_seqs=16, max_num_batched_tokens=256)
    engine = Engine(
        EmulatedExecutor(cost, [1, 2, 3], now_s=clock.now_s, wait=clock.advance),
        build(replace(limits, scheduling_policy=policy), cost),
        BlockPool(blocks, BLOCK_TOKENS),
        lambda ids, skip: "",
        vocabulary=1000,
        max_model_len=blocks * BLOCK_TOKENS,
        clock=clock,
    )
    waiting = list(reversed(crowd(seed, blocks)))
    ends: list[FinishReason | None] = []
    for _ in range(20_000):
        if not waiting and not engine.has_work:
            break
        if not engine.has_work:
            clock.advance(max(0.0, waiting[-1].arrival_s - clock.now_s()))
        while waiting and waiting[-1].arrival_s <= clock.now_s():
            engine.add(waiting.pop())
        before_s = clock.now_s()
        ends += [d.finish_reason for d in engine.step() if d.finish_reason is not None]
        engine.audit()
        if clock.now_s() == before_s:
            clock.advance(0.001)
    assert len(ends) == 40
    assert set(ends) == {FinishReason.LENGTH}
