"""A fleet from names: profiles of replicas, `dispatch+step_chunk` policies, what is believed.

`least_loaded+fcfs_2048` sends each request to the least loaded replica, where steps of at most
2048 tokens are first come, first served; `hfx` is the project's own dispatcher and step policy.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import cast

from hfx.config import Policy, SchedulerConfig
from hfx.cost import CostModel, OnlineCost, StepCost
from hfx.cost.fitting import scaled as scaled_regime
from hfx.cost.link import Link
from hfx.scheduler import build
from hfx.scheduler.dispatch_names import build_dispatcher
from hfx.scheduler.dispatch_view import Role
from hfx.scheduler.policies import POLICIES

from .device import Device
from .elastic import Scaling
from .fleet import LINK, Failure, Fleet
from .memory import Counted, Prefixes
from .replica import Replica

OWN_CHUNK = 2048  # tokens: the most in a step of policies that choose chunks themselves
BEST_CHUNK = {"scorpio_like": 256}  # of those that don't, on the published traces
MOST_RUNNING = 256


@dataclass(frozen=True, slots=True)
class PolicyName:
    """A policy in its parts."""

    dispatch: str
    step: str
    chunk_tokens: int

    @classmethod
    def parse(cls, text: str) -> PolicyName:
        """The parts of `dispatch+step_chunk`; `hfx` stands for `hfx+hfx`.

        Raises:
            ValueError: a part has no such name, or the chunk is no number above 0.
        """
        if text in ("hfx", "hfx_reconstruction"):
            text = f"{'hfx' if text == 'hfx' else 'least_loaded'}+{text}"
        dispatch, plus, step = text.partition("+")
        chunk = BEST_CHUNK.get(step, OWN_CHUNK)
        if step not in POLICIES:
            step, _, digits = step.rpartition("_")
            chunk = int(digits) if digits.isdecimal() else 0
        if not plus or step not in POLICIES or chunk < 1:
            raise ValueError(
                f"policy {text!r} is not understood: give DISPATCH+STEP, as "
                f"least_loaded+fcfs_2048; steps are {', '.join(POLICIES)}, and the number is the "
                "most tokens of a step"
            )
        build_dispatcher(dispatch)
        return cls(dispatch, step, chunk)

    def __str__(self) -> str:
        return f"{self.dispatch}+{self.step}_{self.chunk_tokens}"


@dataclass(frozen=True, slots=True, kw_only=True)
class FleetSpec:
    """What a simulated fleet is made of: a profile for each replica, in turn.

    `noise` scales the errors that profiles report for themselves, `cost_error` multiplies what
    policies believe a step takes; with either, prices correct themselves as in a server. `roles`
    are dealt out in turn, as profiles are. With `scaling`, `replicas` are those at the start.
    """

    profiles: Sequence[StepCost]
    replicas: int = 1
    policy: PolicyName
    seed: int = 0
    kv_tokens: int = 500_000
    block_tokens: int = 64
    prefixes: bool = False
    host_s: float = 0.0
    noise: float = 0.0
    cost_error: float = 1.0
    slow: Sequence[tuple[int, float]] = ()
    failures: Sequence[Failure] = ()
    jumps: bool = True
    roles: Sequence[Role] = ("mixed",)
    link: Link = LINK
    flip_s: float = 0.0
    scaling: Scaling | None = None

    def __post_init__(self) -> None:
        if self.replicas < 1 or not self.profiles:
            raise ValueError(
                f"replicas is {self.replicas}: at least 1, and one profile, are needed"
            )
        if self.kv_tokens < self.block_tokens:
            raise ValueError(
                f"kv_tokens is {self.kv_tokens}: at least a block of {self.block_tokens} is needed"
            )

    def fleet(
        self,
        *,
        keep_tokens: bool = False,
        observer: Callable[[float, Fleet], float] | None = None,
    ) -> Fleet:
        """The fleet, ready to run once.

        Raises:
            ValueError: a setting is impossible; the message says which.
        """
        return Fleet(
            [self.replica(id) for id in range(self.replicas)],
            build_dispatcher(self.policy.dispatch, self.seed),
            failures=self.failures,
            spawn=self.replica,
            link=self.link,
            flip_s=self.flip_s,
            elastic=None if self.scaling is None else self.scaling.elastic(),
            cold_start=None if self.scaling is None else self.scaling.cold_start,
            keep_tokens=keep_tokens,
            observer=observer,
        )

    def replica(self, id: int) -> Replica:
        """One replica, new."""
        model = self.profiles[id % len(self.profiles)]
        slowdown = dict(self.slow).get(id, 1.0)
        device = Device(
            model,
            slowdown=slowdown,
            host_s=self.host_s,
            noise=self.noise,
            seed=(self.seed, id),
        )
        chunk = self.policy.chunk_tokens
        config = SchedulerConfig(
            scheduling_policy=cast("Policy", self.policy.step),
            max_num_seqs=min(MOST_RUNNING, chunk),
            max_num_batched_tokens=chunk,
        )
        prices = self._prices(model, slowdown)
        blocks = self.kv_tokens // self.block_tokens
        memory = (Prefixes if self.prefixes else Counted)(blocks, self.block_tokens)
        replica = Replica(id, build(config, prices), device, memory, prices, jumps=self.jumps)
        replica.view.role = self.roles[id % len(self.roles)]
        return replica

    def _prices(self, model: StepCost, slowdown: float) -> CostModel:
        """What policies believe: the truth, or something that steps will correct."""
        exact = self.cost_error == 1 and not self.noise and not self.host_s and slowdown == 1
        if exact:
            return model
        return OnlineCost(believed(model, self.cost_error))


def believed(model: StepCost, factor: float) -> StepCost:
    """A model whose every price is off by a factor."""
    return replace(
        model,
        decode=scaled_regime(model.decode, factor, model.decode.upper_factor),
        mixed=scaled_regime(model.mixed, factor, model.mixed.upper_factor),
    )
