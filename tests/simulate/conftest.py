"""Small fleets whose numbers can be checked."""

from collections.abc import Callable

import numpy as np
import pytest

from hfx.config import SchedulerConfig
from hfx.cost import StepCost, preset
from hfx.request import Objective
from hfx.scheduler import build
from hfx.simulate import Device, Job, Replica
from hfx.simulate.memory import Counted, Prefixes

PROFILE = "rtxpro6000-llama3.1-8b"


@pytest.fixture(scope="session")
def cost() -> StepCost:
    return preset(PROFILE)


@pytest.fixture
def make_replica(cost: StepCost) -> Callable[..., Replica]:
    """A replica of that policy; `prefixes` finds prompts by hash ids."""

    def make(
        id: int = 0,
        policy: str = "fcfs",
        blocks: int = 7000,
        *,
        prefixes: bool = False,
        jumps: bool = True,
        noise: float = 0.0,
        seed: int = 0,
    ) -> Replica:
        config = SchedulerConfig(
            scheduling_policy=policy,  # type: ignore[arg-type]
            max_num_seqs=256,
            max_num_batched_tokens=2048,
        )
        memory = (Prefixes if prefixes else Counted)(blocks, 64)
        device = Device(cost, noise=noise, seed=(seed, id))
        return Replica(id, build(config, cost), device, memory, cost, jumps=jumps)

    return make


def traffic(count: int, rate: float, seed: int = 0) -> list[Job]:
    """Poisson arrivals of two classes."""
    rng = np.random.default_rng(seed)
    chat = Objective(ttft_s=1.0, tpot_s=0.1, tier="chat")
    agent = Objective(ttft_s=0.3, tpot_s=0.03, tier="agent")
    times = np.cumsum(rng.exponential(1 / rate, count))
    return [
        Job.of(
            f"r{n}",
            float(times[n]),
            int(rng.integers(1, 3000)),
            int(rng.integers(1, 300)),
            agent if n % 5 == 0 else chat,
        )
        for n in range(count)
    ]
