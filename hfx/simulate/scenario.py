"""What one command simulates: traffic and a fleet, of which policy, rate and seed are still open.

A run depends on its scenario and its point alone: anywhere, at any time, the same figures.
Seconds, tokens, requests per second.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from hfx.cost import StepCost, named
from hfx.cost.link import Link
from hfx.request import Mix, Objective
from hfx.scheduler.dispatch_view import Role

from .arrivals import Kind
from .elastic import Scaling
from .fleet import Failure
from .job import Job
from .limits import STEP_TOKENS, feasible_alone
from .limits_clairvoyant import ROUNDS, clairvoyant
from .limits_fluid import fluid_limit
from .limits_scaling import SLOT_S, least_accelerator_s, work_of
from .setup import FleetSpec, PolicyName
from .starts import ColdStart
from .summary import Curves, Summary, curves, summarize
from .timeline import Timeline
from .workload import MIXES, clock_of, from_rows, generated, hinted, replayed, scaled

DEFAULT_PROFILE = "rtxpro6000-llama3.1-8b"
DEFAULT_SECONDS = 300.0
MOST_REPLICAS = 16  # that a scaler may have, where nobody says
BITS_TO_BYTES = 1e9 / 8  # of a link's rate
CLAIRVOYANT = "hfx"  # whose policy is told the future
LIMITS = "limits"  # a point of this name is no policy's run, but what none can beat


@dataclass(frozen=True, slots=True)
class Point:
    """One run of a scenario; `rate` None is a trace's own."""

    policy: str
    rate: float | None
    seed: int

    def __str__(self) -> str:
        at = "" if self.rate is None else f" at {self.rate:g}/s"
        return f"{self.policy}{at}, seed {self.seed}"


@dataclass(frozen=True, slots=True)
class Run:
    """What came of a point; `cpu_s` is what simulating it took, and the only figure that differs
    when it is run again."""

    point: Point
    horizon_s: float
    summary: Summary
    curves: Curves
    timeline: dict[str, Any]
    cpu_s: float

    def plain(self) -> dict[str, Any]:
        """As JSON holds it, to be read back by `of`."""
        return asdict(self)

    @classmethod
    def of(cls, plain: dict[str, Any]) -> Run:
        """What `plain` wrote."""
        return cls(**{**plain, "point": Point(**plain["point"])})


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """Traffic and a fleet. A trace replaces the workload, and has one promise for all.

    `data` is a folder of published traces whose rows give lengths, `clock` a trace whose arrivals
    are kept, `hints` what policies are told of an output's length, as a factor of the truth.
    `horizon_s` None is the whole of a trace, else 300 s. The first `prefill_replicas` serve prompts
    and the others decode; none: all do both. With a `scaler`, `replicas` are those at the start.

    Raises:
        ValueError: settings contradict each other; the message says which.
    """

    workload: str = "M1"
    trace: Path | None = None
    data: Path | None = None
    clock: Path | None = None
    jitter_s: float | None = None
    horizon_s: float | None = None
    arrivals: Kind = "poisson"
    cv: float = 2.5
    day_s: float = 3600.0
    slo_scale: float = 1.0
    ttft_s: float | None = 1.0
    tpot_s: float | None = 0.1
    hints: float | None = None
    profiles: tuple[str, ...] = (DEFAULT_PROFILE,)
    replicas: int = 1
    kv_tokens: int = 500_000
    host_s: float = 0.0
    noise: float = 0.0
    cost_error: float = 1.0
    slow: tuple[tuple[int, float], ...] = ()
    failures: tuple[Failure, ...] = ()
    prefill_replicas: int = 0
    link_gbps: float = 200.0
    flip_s: float = 0.0
    scaler: str | None = None
    least: int = 1
    most: int = MOST_REPLICAS
    cold_start_s: float = 10.0
    weight_bytes: int = 0
    from_replicas: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.prefill_replicas < self.replicas:
            raise ValueError(
                f"{self.prefill_replicas} of {self.replicas} replicas for prompts: one at least "
                "must be left to decode; lower --prefill-replicas or raise --replicas"
            )
        for id, _ in self.slow:
            self._require_replica(id, "--slow")
        for failure in self.failures:
            self._require_replica(failure.replica_id, "--fail")

    def _require_replica(self, id: int, option: str) -> None:
        if not 0 <= id < self._greatest:
            raise ValueError(f"{option} names replica {id}: there are 0 to {self._greatest - 1}")

    def models(self) -> tuple[StepCost, ...]:
        """The profiles, read.

        Raises:
            ValueError: there is none of a name; the message lists them.
        """
        return tuple(named(name) for name in self.profiles)

    def run(self, point: Point, progress: Callable[[int, int], None]) -> Run:
        """Simulate one point; `progress` hears how many more requests have arrived, of how many.

        Raises:
            ValueError: a setting is impossible; the message says which.
        """
        traffic = _traffic(self, point.rate, point.seed)
        if point.policy == LIMITS:
            return self._limits(point, traffic, progress)
        jobs = traffic.jobs
        timeline = Timeline(traffic.horizon_s)
        fleet = self.spec(point, jobs).fleet(observer=timeline)
        progress(0, len(jobs))
        began_s = time.process_time()
        result = fleet.run(jobs, lambda more: progress(more, len(jobs)))
        cpu_s = time.process_time() - began_s
        summary = summarize(result, traffic.horizon_s, feasible=traffic.feasible)
        return Run(point, traffic.horizon_s, summary, curves(result.fates), timeline.plain(), cpu_s)

    def _limits(self, point: Point, traffic: _Traffic, progress: Callable[[int, int], None]) -> Run:
        """What no policy can beat, and what our own keeps when it knows the future."""
        jobs, models = traffic.jobs, self.models()
        began_s = time.process_time()
        progress(0, len(jobs) * ROUNDS)
        spec = self.spec(replace(point, policy=CLAIRVOYANT), jobs)
        fluid = fluid_limit(
            jobs,
            traffic.horizon_s,
            [models[id % len(models)] for id in range(self._greatest)],
            feasible=traffic.feasible,
        )
        best = clairvoyant(
            jobs,
            lambda some: spec.fleet().run(some, lambda more: progress(more, len(jobs) * ROUNDS)),
            models[0],
            feasible=traffic.feasible,
        )
        figures: Summary = {
            "feasible_alone": len(traffic.feasible) / len(jobs),
            "fluid": fluid.kept,
            "clairvoyant": max(best.kept),
        }
        if self.scaler is not None:
            figures["accelerator_s"] = least_accelerator_s(
                work_of(jobs, min(models, key=_full_step_s)),
                start_s=self.cold_start_s,
                most=self.most,
                present=min(self.replicas, self.most),
            ).accelerator_s
        cpu_s = time.process_time() - began_s
        return Run(point, traffic.horizon_s, figures, {}, {}, cpu_s)

    def spec(self, point: Point, jobs: Sequence[Job]) -> FleetSpec:
        """The fleet that serves a point."""
        return FleetSpec(
            profiles=self.models(),
            replicas=self.replicas,
            policy=PolicyName.parse(point.policy),
            seed=point.seed,
            kv_tokens=self.kv_tokens,
            prefixes=any(job.hash_ids for job in jobs),
            host_s=self.host_s,
            noise=self.noise,
            cost_error=self.cost_error,
            slow=self.slow,
            failures=self.failures,
            roles=self._roles(),
            link=Link(self.link_gbps * BITS_TO_BYTES),
            flip_s=self.flip_s,
            scaling=self._scaling(jobs),
        )

    @property
    def _greatest(self) -> int:
        """The most replicas that there may be at a time."""
        return self.replicas if self.scaler is None else max(self.replicas, self.most)

    def _roles(self) -> tuple[Role, ...]:
        if not self.prefill_replicas:
            return ("mixed",)
        prefill: list[Role] = ["prefill"]
        decode: list[Role] = ["decode"]
        decoding = self.replicas - self.prefill_replicas
        return (*(prefill * self.prefill_replicas), *(decode * decoding))

    def _scaling(self, jobs: Sequence[Job]) -> Scaling | None:
        if self.scaler is None:
            return None
        is_sized = self.scaler.startswith("static_")
        needed = work_of(jobs, self.models()[0]).needed() if is_sized else ()
        slots = 1 + int(max(job.request.arrival_s for job in jobs) / SLOT_S)
        cold_start = ColdStart.taking(self.cold_start_s, self.weight_bytes)
        return Scaling(
            scaler=self.scaler,
            least=self.least,
            most=self.most,
            cold_start=replace(cold_start, from_replicas=self.from_replicas),
            needed=needed[:slots],
        )

    def traffic(self, rate: float | None, seed: int) -> list[Job]:
        """What arrives, in no order.

        Raises:
            ValueError: nothing does, or a file can't be read.
        """
        if self.trace is not None:
            promise = Objective(ttft_s=self.ttft_s, tpot_s=self.tpot_s, tier="trace")
            jobs = replayed(
                self.trace,
                scaled(promise, self.slo_scale),
                rate=rate,
                seconds=self.horizon_s,
                seed=seed,
                jitter_s=self.jitter_s,
            )
        elif rate is None:
            raise ValueError("--rate is missing: how many requests arrive per second?")
        else:
            mix = MIXES[self.workload]
            jobs = generated(
                mix if self.data is None else from_rows(mix, self.data),
                rate,
                self.horizon_s or DEFAULT_SECONDS,
                seed,
                kind=self.arrivals,
                cv=self.cv,
                slo_scale=self.slo_scale,
                day_s=self.day_s,
                clock_s=None if self.clock is None else clock_of(self.clock, seed),
            )
        if not jobs:
            raise ValueError(f"nothing arrives in {self.horizon_s} s: raise --rate or --seconds")
        return jobs if self.hints is None else hinted(jobs, self.hints)

    def expected(self, rate: float | None) -> float:
        """About how many requests a run has, 0 where only the trace knows."""
        return 0.0 if rate is None else rate * (self.horizon_s or DEFAULT_SECONDS)

    def settings(self) -> dict[str, Any]:
        """Every field, as JSON holds it."""
        return {field.name: _plain(getattr(self, field.name)) for field in fields(self)}

    def inputs(self) -> dict[str, str]:
        """A digest of every file that is read."""
        files = [self.trace, self.clock, *(Path(name) for name in self.profiles)]
        if self.data is not None:
            files += sorted(self.data.rglob("*.csv*"))
        return {
            str(path): hashlib.sha256(path.read_bytes()).hexdigest()
            for path in files
            if path is not None and path.is_file()
        }


def _full_step_s(model: StepCost) -> float:
    return model.step_s(Mix.one(STEP_TOKENS, 0)).mean_s


@dataclass(frozen=True, slots=True)
class _Traffic:
    jobs: list[Job]
    horizon_s: float
    feasible: frozenset[str]


@lru_cache(maxsize=1)
def _traffic(scenario: Scenario, rate: float | None, seed: int) -> _Traffic:
    """The same for every policy, one of which follows the other."""
    jobs = scenario.traffic(rate, seed)
    last_s = max(job.request.arrival_s for job in jobs)
    whole_s = DEFAULT_SECONDS if scenario.trace is None else last_s
    feasible = feasible_alone(jobs, scenario.models(), kv_tokens=scenario.kv_tokens)
    return _Traffic(jobs, scenario.horizon_s or whole_s or 1.0, feasible)


def _plain(value: Any) -> Any:
    if isinstance(value, (str, int, float)) or value is None:
        return value
    if isinstance(value, (list, tuple)):
        return [_plain(part) for part in value]
    if isinstance(value, Failure):
        return asdict(value)
    return str(value)
