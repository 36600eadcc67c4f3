"""One run of the policy benchmark: what is served by what, at which rate. Seconds, per second."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from hfx.cost import StepCost, named
from hfx.simulate import Job, Result
from hfx.simulate.limits import feasible_alone
from hfx.simulate.limits_clairvoyant import clairvoyant
from hfx.simulate.limits_fluid import fluid_limit
from hfx.simulate.setup import FleetSpec, PolicyName, believed
from hfx.simulate.summary import summarize
from hfx.simulate.workload import MIXES, Mix, from_rows, generated

PROFILE = "rtxpro6000-llama3.1-8b"
OWN, CLAIRVOYANT, FLUID = "hfx", "clairvoyant", "fluid"
SLOW_SPEED = 0.58  # of the other half of the mixed fleet

CASE_FILES = ("policies_cases.py",)
OWN_STEP_FILES = (  # of scheduler/, on which no baseline depends; nor on our dispatcher's
    "admission.py",
    "chunks.py",
    "decodes.py",
    "demand.py",
    "dispatch.py",
    "draft.py",
    "queue.py",
    "room.py",
    "select.py",
    "step.py",
    "track.py",
)
SHARED_DISPATCH = ("fixed", "view", "names", "llumnix", "arrow")
VIEW_FILES = ("cli.py", "options.py", "plots.py", "__main__.py")  # and report*.py, sweep*.py


@dataclass(frozen=True, slots=True)
class Case:
    """One policy on one traffic. `data` is where the traces are, "" for published statistics.

    `rounds` are the clairvoyant's; with `is_mixed` every second replica is slower.
    """

    policy: str
    mix: str
    scale: float
    cv: float
    replicas: int
    rate: float
    seed: int
    seconds: float
    data: str = ""
    is_mixed: bool = False
    rounds: int = 0

    @property
    def key(self) -> str:
        """The same for the same question."""
        return json.dumps(asdict(self), sort_keys=True)

    @property
    def requests(self) -> float:
        """About how many requests are simulated: what a run costs."""
        one = self.rate * self.seconds
        if self.policy == FLUID:
            return one / 20
        return one * max(1, self.rounds) * (3 if self.policy in (OWN, CLAIRVOYANT) else 1)


@dataclass(frozen=True, slots=True)
class Traffic:
    """What arrives, and the ids of those whose promise an idle replica would keep."""

    jobs: list[Job]
    feasible: frozenset[str]


def run(case: Case) -> dict[str, Any]:
    """The figures of a case, and the processor time that they took."""
    began_s = time.process_time()
    if case.policy == FLUID:
        figures = _fluid(case)
    elif case.policy == CLAIRVOYANT:
        figures = _clairvoyant(case)
    else:
        traffic = traffic_of(case)
        result = serve(case, case.policy, traffic.jobs)
        figures = dict(summarize(result, case.seconds, feasible=traffic.feasible))
    plain = {name: float(value) for name, value in figures.items()}
    return {"figures": plain, "cpu_s": time.process_time() - began_s}


def serve(case: Case, policy: str, jobs: Sequence[Job]) -> Result:
    """Serve jobs on a new fleet of the case."""
    slow = range(1, case.replicas, 2) if case.is_mixed else ()
    spec = FleetSpec(
        profiles=(_profile(),),
        replicas=case.replicas,
        policy=PolicyName.parse(policy),
        seed=case.seed,
        slow=[(id, 1 / SLOW_SPEED) for id in slow],
    )
    return spec.fleet().run(jobs)


def traffic_of(case: Case) -> Traffic:
    """The same for every policy."""
    return _traffic(case.mix, case.scale, case.cv, case.rate, case.seed, case.seconds, case.data)


@lru_cache(maxsize=2)
def _traffic(
    mix: str, scale: float, cv: float, rate: float, seed: int, seconds: float, data: str
) -> Traffic:
    kind, classes = ("poisson" if cv == 1 else "gamma"), _mix(mix, data)
    jobs = generated(classes, rate, seconds, seed, kind=kind, cv=cv, slo_scale=scale)
    return Traffic(jobs, feasible_alone(jobs, (_profile(),)))


@lru_cache(maxsize=4)
def _mix(name: str, data: str) -> Mix:
    return from_rows(MIXES[name], Path(data)) if data else MIXES[name]


@lru_cache(maxsize=1)
def _profile() -> StepCost:
    return named(PROFILE)


def _fluid(case: Case) -> dict[str, float]:
    traffic, fast = traffic_of(case), _profile()
    slow = believed(fast, 1 / SLOW_SPEED) if case.is_mixed else fast
    fleet = [slow if n % 2 else fast for n in range(case.replicas)]
    limit = fluid_limit(traffic.jobs, case.seconds, fleet, feasible=traffic.feasible)
    by_class = {f"attainment_{name}": share for name, share in limit.by_class.items()}
    feasible = len(traffic.feasible) / len(traffic.jobs)
    return {"joint": limit.kept, "feasible_alone": feasible, **by_class}


def _clairvoyant(case: Case) -> dict[str, float]:
    traffic = traffic_of(case)
    found = clairvoyant(
        traffic.jobs,
        lambda jobs: serve(case, OWN, jobs),
        _profile(),
        feasible=traffic.feasible,
        rounds=case.rounds,
    )
    figures = summarize(found.result, case.seconds, feasible=traffic.feasible)
    return {**figures, "left_out": found.left_out, "hints_alone": found.kept[0]}


def versions(root: Path) -> tuple[str, str]:
    """Digests of the sources that baselines depend on, and that our own policy depends on."""
    files = [root / "benchmarks" / name for name in CASE_FILES]
    files += [root / "hfx" / name for name in ("request.py", "traces.py", "config.py")]
    for folder in ("hfx/simulate", "hfx/cost", "hfx/cache", "scheduler"):
        files += sorted((root / folder).rglob("*.py"))
    files += sorted((root / "hfx/cost").rglob("*.json"))
    baselines, own = hashlib.sha256(), hashlib.sha256()
    for path in files:
        if path.parent.name == "simulate" and _is_view(path.name):
            continue
        own.update(path.read_bytes())
        if not _is_own(path.name):
            baselines.update(path.read_bytes())
    return baselines.hexdigest()[:16], own.hexdigest()[:16]


def _is_own(name: str) -> bool:
    if name.startswith("dispatch_"):
        return not any(word in name for word in SHARED_DISPATCH)
    return name in OWN_STEP_FILES or "clairvoyant" in name


def _is_view(name: str) -> bool:
    return name in VIEW_FILES or name.startswith(("report", "sweep", "words", "looks", "output"))
