"""The fluid limit: the most promises that a fleet's time can keep, by a linear program.

Steps and tokens become rates and nobody waits; left are work and pace. An instance that hosts a
stream of time per token t iterates at least every t and pays a step's fixed cost each time.
Seconds, tokens; rates are per second of the horizon.

Variables, for each kind of device and each tier t (a time per token that somebody asked for):
    time                    instances whose tightest stream is of that tier
    mixed, plain            steps with prompt chunks, steps of decodes alone
    mixed_time, plain_time  the instances that these take
    prompt, pairs, history, chunks    prompt work in them
    tokens, context         output tokens of a class and their context, in steps of a kind
and for each request how much of it is kept, from 0 to 1: their sum is what is greatest.

Why it bounds: a step takes at least every line of `limits_prices`, so many steps take at least the
line of their sums. What may come after the horizon isn't counted. A class that is kept is hosted by
somebody: a stream of S seconds at its fastest, that starts within TTFT, fills S of the TTFT + S
after its arrival, so on average that share of the time. Assumed and not proven: while it hosts a
tier, an instance iterates evenly. Memory is unbounded, prefix caches are unknown.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from math import inf

import numpy as np

from hfx.cost import StepCost
from hfx.request import Mix

from .job import Job
from .limits import STEP_TOKENS
from .limits_prices import MOST_DECODES, Line, decode_lines, mixed_lines
from .limits_program import Program, Row

Class = tuple[str, float]  # its name and its time per token
PROMPT_WORK = ("prompt", "pairs", "history", "chunks")
OUTPUT_WORK = ("tokens", "context")
SHORTEST = Mix(1, 2)  # the step that no other undercuts


@dataclass(frozen=True, slots=True)
class FluidLimit:
    """The most of all requests that can be kept; how one such optimum spreads over classes, and
    how many instances host which time per token in it."""

    kept: float
    by_class: dict[str, float]
    instances_by_tpot: dict[float, float]


@dataclass(frozen=True, slots=True)
class Demand:
    """What must be done for one request before the horizon ends, if it is to be kept.

    `hosted` is the share of the time around its arrival that its stream fills.
    """

    kind: Class
    prompt: float
    pairs: float
    history: float
    chunks: float
    tokens: float
    context: float
    hosted: float


def demand(job: Job, horizon_s: float, fastest_s: float, step_tokens: int = STEP_TOKENS) -> Demand:
    """A job's demand, where no step is shorter than `fastest_s`. All of it at infinite horizon."""
    promise, arrival_s = job.request.objective, job.request.arrival_s
    ttft_s, tpot_s = promise.ttft_s or inf, promise.tpot_s or inf
    steps, prompt = job.output_tokens - 1, job.request.prompt_tokens
    end_s = arrival_s + (promise.deadline_s or inf)
    last_s = min(end_s, arrival_s + ttft_s + (tpot_s * steps if steps else 0.0))
    span_s = steps * fastest_s
    hosted = span_s / (span_s + ttft_s) if tpot_s < inf and span_s else 0.0
    if last_s > horizon_s:
        hosted = 0.0
        steps -= int(min(steps, (last_s - horizon_s) / fastest_s + 1))
        if min(end_s, arrival_s + ttft_s) > horizon_s:
            prompt = steps = 0
    chunks = -(-prompt // step_tokens)
    return Demand(
        (promise.tier, tpot_s),
        prompt,
        prompt * prompt / 2,
        sum(prompt - n * step_tokens for n in range(1, chunks)),
        chunks,
        steps,
        steps * prompt + steps * (steps + 1) / 2,
        hosted,
    )


def fluid_limit(
    jobs: Iterable[Job],
    horizon_s: float,
    fleet: Sequence[StepCost],
    *,
    feasible: frozenset[str] | None = None,
    step_tokens: int = STEP_TOKENS,
    steady: bool = False,
) -> FluidLimit:
    """The most of these jobs, which arrive in `horizon_s`, whose promises a fleet could keep.

    `fleet` has a profile for each replica. `feasible` are the ids of those that can be kept at all
    (`limits.feasible_alone`; all of them). With `steady` the traffic goes on for ever, and nothing
    may be put off to its end; without, a bound of one run that starts empty.

    Raises:
        ValueError: there are no jobs, no replicas or no time.
    """
    jobs = list(jobs)
    if not jobs or not fleet or not 0 < horizon_s < inf:
        raise ValueError(
            f"{len(jobs)} jobs, {len(fleet)} replicas, {horizon_s} s: there must be some of each"
        )
    fastest_s = min(profile.step_s(SHORTEST).mean_s for profile in fleet)
    end_s = inf if steady else horizon_s
    demands = [demand(job, end_s, fastest_s, step_tokens) for job in jobs]
    able = [feasible is None or job.request.id in feasible for job in jobs]
    kinds = {id(profile): profile for profile in fleet}
    counts = [(profile, sum(one is profile for one in fleet)) for profile in kinds.values()]
    return _Fluid(demands, able, horizon_s, counts, step_tokens).solved()


@dataclass(slots=True)
class _Host:
    """The variables of devices of a kind that host a tier."""

    time: int
    mixed: int
    plain: int
    mixed_time: int
    plain_time: int
    prompt: int
    pairs: int
    history: int
    chunks: int
    # of each class: in mixed steps, in plain ones
    tokens: dict[Class, tuple[int, int]]
    context: dict[Class, tuple[int, int]]

    def output(self, which: int) -> tuple[Row, Row]:
        """Tokens and context of one kind of step, each with coefficient 1."""
        tokens: Row = [(pair[which], 1.0) for pair in self.tokens.values()]
        return tokens, [(pair[which], 1.0) for pair in self.context.values()]


class _Fluid:
    """The program of one question."""

    def __init__(
        self,
        demands: Sequence[Demand],
        able: Sequence[bool],
        horizon_s: float,
        counts: Sequence[tuple[StepCost, int]],
        step_tokens: int,
    ) -> None:
        self.demands = demands
        self.horizon_s = horizon_s
        self.step_tokens = step_tokens
        self.program = Program()
        self.classes = sorted({one.kind for one in demands})
        self.tiers = sorted({tpot_s for _, tpot_s in self.classes})
        self.kept = [self.program.variable(upper=float(can)) for can in able]
        self.hosts: dict[float, list[_Host]] = {tier_s: [] for tier_s in self.tiers}
        for profile, count in counts:
            hosts = [self._add(profile, tier_s) for tier_s in self.tiers]
            self.program.at_most([(host.time, 1.0) for host in hosts], count)
        self._share_prompts()
        for kind in self.classes:
            self._share_outputs(kind)

    def solved(self) -> FluidLimit:
        """The optimum."""
        values = self.program.most([(one, 1.0) for one in self.kept])
        kept = values[self.kept]
        names = np.asarray([one.kind[0] for one in self.demands])
        return FluidLimit(
            min(1.0, float(kept.mean())),
            {name: float(kept[names == name].mean()) for name in sorted(set(names.tolist()))},
            {
                tier_s: float(sum(values[host.time] for host in hosts))
                for tier_s, hosts in self.hosts.items()
            },
        )

    def _add(self, profile: StepCost, tier_s: float) -> _Host:
        """Devices of that kind that host that tier, and those who ask for no faster one."""
        new = self.program.variable
        classes = [kind for kind in self.classes if kind[1] >= tier_s]
        names = [field.name for field in fields(_Host)][: -len(OUTPUT_WORK)]
        host = _Host(
            **{name: new() for name in names},
            tokens={kind: (new(), new()) for kind in classes},
            context={kind: (new(), new()) for kind in classes},
        )
        self.hosts[tier_s].append(host)
        at_most = self.program.at_most
        at_most([(host.mixed_time, 1.0), (host.plain_time, 1.0), (host.time, -1.0)], 0.0)
        if tier_s < inf:
            at_most([(host.time, 1 / tier_s), (host.mixed, -1.0), (host.plain, -1.0)], 0.0)
        self._size(host)
        self._price(host, profile)
        return host

    def _size(self, host: _Host) -> None:
        """No step holds more decodes and tokens than a step can."""
        mixed, _ = host.output(0)
        plain, _ = host.output(1)
        at_most = self.program.at_most
        at_most([*mixed, (host.mixed, -float(MOST_DECODES))], 0.0)
        at_most([*plain, (host.plain, -float(MOST_DECODES))], 0.0)
        at_most([(host.prompt, 1.0), *mixed, (host.mixed, -float(self.step_tokens))], 0.0)

    def _price(self, host: _Host, profile: StepCost) -> None:
        for line in mixed_lines(profile, self.step_tokens):
            prompts: Row = [(host.prompt, line.prompt_token_s), (host.chunks, line.chunk_s)]
            prompts += [(host.history, line.history_token_s), (host.pairs, line.pair_s)]
            self._take(line, host.mixed, host.output(0), prompts, host.mixed_time)
        for line in decode_lines(profile):
            self._take(line, host.mixed, host.output(0), [], host.mixed_time)
            self._take(line, host.plain, host.output(1), [], host.plain_time)

    def _take(
        self, line: Line, steps: int, output: tuple[Row, Row], prompts: Row, time: int
    ) -> None:
        tokens, context = output
        row = [(steps, line.step_s), *prompts, (time, -1.0)]
        row += [(at, line.decode_s) for at, _ in tokens]
        row += [(at, line.context_token_s) for at, _ in context]
        self.program.at_most(row, 0.0)

    def _share_prompts(self) -> None:
        """Prompt work of those who are kept is done somewhere."""
        hosts = [host for hosts in self.hosts.values() for host in hosts]
        members = range(len(self.demands))
        for name in PROMPT_WORK:
            self._share(members, name, [getattr(host, name) for host in hosts])

    def _share_outputs(self, kind: Class) -> None:
        """So is a class's output, where nothing slower is hosted; which then must be somewhere."""
        members = [n for n, one in enumerate(self.demands) if one.kind == kind]
        hosts = [host for tier_s in self.tiers if tier_s <= kind[1] for host in self.hosts[tier_s]]
        for name in OUTPUT_WORK:
            self._share(members, name, [at for host in hosts for at in getattr(host, name)[kind]])
        hosted = [(self.kept[n], self.demands[n].hosted / len(members)) for n in members]
        self.program.at_most([*hosted, *((host.time, -1.0) for host in hosts)], 0.0)

    def _share(self, members: Iterable[int], name: str, columns: Iterable[int]) -> None:
        row: Row = []
        for n in members:
            each = getattr(self.demands[n], name) / self.horizon_s
            if each:
                row.append((self.kept[n], each))
        self.program.at_most([*row, *((column, -1.0) for column in columns)], 0.0)
