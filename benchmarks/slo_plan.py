"""How long the multi-SLO policy takes for a plan with hundreds of requests live and more waiting.

A virtual replica whose slots are full, an 8B model on an H100 by its preset, three tiers: each plan
is carried out, whoever ends makes room for whoever waits, and as many arrive. Only `plan` is timed.
"""

import gc
import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from statistics import median
from time import perf_counter

from hfx.cost import preset
from hfx.request import FinishReason, Objective, Plan, Request, Sampling
from hfx.scheduler import SlackPolicy, Snapshot

from .slo_replay import Job, replay

TIERS = (
    Objective(ttft_s=2.0, tpot_s=0.05, tier="interactive"),
    Objective(ttft_s=20.0, tpot_s=0.15, tier="standard"),
    Objective(deadline_s=600.0, tier="batch"),
)
BLOCKS = 32768
PER_S = 30.0  # requests that arrive, about as many as end
ENOUGH = 500  # plans


@dataclass(frozen=True, slots=True)
class PlanTime:
    """Milliseconds for a plan, and how many were timed."""

    median_ms: float
    p99_ms: float
    plans: int


class _Enough(Exception):
    """As many plans as wanted have been timed."""


@dataclass(slots=True)
class _Timed:
    """A policy whose plans are timed while enough requests are live and waiting."""

    policy: SlackPolicy
    live: int
    waiting: int
    times_s: list[float] = field(default_factory=list)

    def plan(self, snapshot: Snapshot) -> Plan:
        start_s = perf_counter()
        plan = self.policy.plan(snapshot)
        took_s = perf_counter() - start_s
        if len(snapshot.running) >= self.live and len(snapshot.waiting) >= self.waiting:
            self.times_s.append(took_s)
        if len(self.times_s) > 2 * ENOUGH:
            raise _Enough
        return plan

    def ended(self, request: Request, output_tokens: int, reason: FinishReason) -> None:
        self.policy.ended(request, output_tokens, reason)


def plan_time(live: int = 256, waiting: int = 2000) -> PlanTime:
    """The time of a plan at that many live and at least that many waiting requests.

    Raises:
        RuntimeError: the replica never was that full.
    """
    cost = preset("h100-llama3.1-8b")
    timed = _Timed(SlackPolicy(cost, max_step_tokens=8192, max_running=live), live, waiting)
    gc.collect()
    gc.disable()
    try:
        replay(_jobs(live + waiting), timed, lambda mix: cost.step_s(mix).mean_s, blocks=BLOCKS)
    except _Enough:
        times_s = sorted(timed.times_s[ENOUGH:])
        return PlanTime(
            median(times_s) * 1e3, times_s[len(times_s) * 99 // 100] * 1e3, len(times_s)
        )
    finally:
        gc.enable()
    raise RuntimeError(f"only {len(timed.times_s)} plans were made with {live} and {waiting}")


def _jobs(count: int) -> Iterator[Job]:
    """That many at once and a quarter more, then as many as end."""
    draw = random.Random(7)
    for index in range(4 * count):
        late_s = max(0.0, index - 1.25 * count) / PER_S
        request = Request(
            id=f"{index:06d}",
            prompt_token_ids=(1,) * draw.randint(50, 1500),
            sampling=Sampling(max_tokens=1024),
            objective=TIERS[index % len(TIERS)],
            arrival_s=1e-3 + late_s,
        )
        yield Job(request, draw.randint(20, 400))
