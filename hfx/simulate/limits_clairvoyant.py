"""What our own algorithm keeps when it is told the future: how much of a gap is uncertainty.

It knows what no policy can. Every output's length, as a hint that is true; and whether the hints
help, from a second round without. And whom to leave out, from the whole future: the same traffic is
served again and again, each time without some of those who would miss, those that take longest
first, as far as that helps others. Who is left out costs nothing, as if served after everybody
else, and counts as missed. Everything else, which replica and which step, is decided by the same
objects as online. The best round counts. It is no upper bound of what a policy can do.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace

from hfx.cost import StepCost
from hfx.request import Mix

from .fleet import Result
from .job import Fate, Job

ROUNDS = 5
FIRST_SHARE = 0.5  # of those who missed that are left out at first; halved where it didn't help
CROWD = 16  # streams that share a step when the time of an output is counted


@dataclass(frozen=True, slots=True)
class Clairvoyant:
    """The best round, with every job's fate; how many it left out; the share each round kept: with
    hints, without, and from there on whom it left out varied."""

    result: Result
    left_out: int
    kept: tuple[float, ...]


def clairvoyant(
    jobs: Sequence[Job],
    serve: Callable[[Sequence[Job]], Result],
    cost: StepCost,
    *,
    feasible: Collection[str],
    rounds: int = ROUNDS,
) -> Clairvoyant:
    """Serve traffic with the future known, at most `rounds` times.

    `serve` runs a new fleet each time it is called, `cost` says who takes longest, `feasible` are
    the ids of those that can be kept at all.

    Raises:
        ValueError: there are no jobs or no rounds.
    """
    if rounds < 1 or not jobs:
        raise ValueError(f"{rounds} rounds for {len(jobs)} jobs: there must be at least one")
    real = {job.request.id: job for job in jobs}
    told = {id: job.hinted() for id, job in real.items()}
    work = {id: work_s(job, cost) for id, job in real.items()}
    lost = {id for id in real if id not in feasible}
    best = _served(told, lost, serve)
    kept, share = [best.kept(len(jobs))], FIRST_SHARE
    if rounds > 1 and best.missed:
        untold = _served(real, lost, serve)
        kept.append(untold.kept(len(jobs)))
        if len(untold.met) > len(best.met):
            best, told = untold, real
    while len(kept) < rounds and best.missed:
        count = max(1, round(share * len(best.missed)))
        dearest = sorted(best.missed, key=lambda id: (-work[id], id))[:count]
        other = _served(told, best.left_out | set(dearest), serve)
        kept.append(other.kept(len(jobs)))
        if len(other.met) > len(best.met):
            best = other
        else:
            share /= 2
    return Clairvoyant(best.whole(real), len(best.left_out), tuple(kept))


def work_s(job: Job, cost: StepCost) -> float:
    """About what serving a job adds to the steps of a busy replica."""
    prompt, output = job.request.prompt_tokens, job.output_tokens
    prompt_s = cost.step_s(Mix.one(prompt, 0)).mean_s - cost.step_s(Mix(1, 2)).mean_s
    context = prompt + output // 2 + 1
    crowd_s = cost.step_s(Mix(CROWD + 1, (CROWD + 1) * context)).mean_s
    return prompt_s + output * (crowd_s - cost.step_s(Mix(CROWD, CROWD * context)).mean_s)


@dataclass(frozen=True, slots=True)
class _Round:
    result: Result
    left_out: set[str]
    met: set[str]
    missed: set[str]  # of those who were served

    def kept(self, jobs: int) -> float:
        return len(self.met) / jobs

    def whole(self, real: Mapping[str, Job]) -> Result:
        """With the fates of those left out, in order of arrival, and jobs without hints."""
        for fate in self.result.fates:
            fate.job = real[fate.job.request.id]
        fates = [*self.result.fates, *(Fate(real[id]) for id in self.left_out)]
        fates.sort(key=lambda fate: (fate.job.request.arrival_s, fate.job.request.id))
        return replace(self.result, fates=tuple(fates))


def _served(
    told: Mapping[str, Job], left_out: set[str], serve: Callable[[Sequence[Job]], Result]
) -> _Round:
    result = serve([job for id, job in told.items() if id not in left_out])
    met = {fate.job.request.id for fate in result.fates if fate.meets}
    return _Round(result, left_out, met, set(told) - left_out - met)
