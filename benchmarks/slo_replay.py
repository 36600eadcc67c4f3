"""Step policies on a virtual clock: a replica without a device, each step as long as prices say.

A policy sees the same snapshots as in a server and its plans are carried out to the letter, so
minutes of traffic take a second and every run of the same trace is the same. Seconds, tokens.
"""

from bisect import insort
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

from hfx.request import FinishReason, Mix, Objective, Plan, Request
from hfx.scheduler import Blocks, Live, Snapshot, StepPolicy

BLOCK_TOKENS = 64
HOST_S = 0.0005  # what a step costs beside its kernels


@dataclass(frozen=True, slots=True)
class Job:
    """A request, and the length that its output will have, which no policy may know."""

    request: Request
    output_tokens: int

    @property
    def hinted(self) -> "Job":
        """The same with its true length as the client's hint: what a clairvoyant run knows."""
        return replace(
            self, request=replace(self.request, expected_output_tokens=self.output_tokens)
        )


@dataclass(frozen=True, slots=True)
class Served:
    """What became of one job: when its tokens came; None where one never did."""

    job: Job
    token_s: tuple[float, ...]
    reason: FinishReason
    preemptions: int

    @property
    def objective(self) -> Objective:
        return self.job.request.objective

    @property
    def ttft_s(self) -> float:
        """Arrival to first token; infinite where none came."""
        return self.token_s[0] - self.job.request.arrival_s if self.token_s else float("inf")

    @property
    def tpot_s(self) -> float:
        """Mean time per token after the first."""
        later = len(self.token_s) - 1
        return (self.token_s[-1] - self.token_s[0]) / later if later > 0 else 0.0

    @property
    def is_whole(self) -> bool:
        """Whether it got all of its tokens."""
        return len(self.token_s) == self.job.output_tokens

    @property
    def meets(self) -> bool:
        """Whether every target was met, time per token as a mean."""
        if not self.is_whole:
            return False
        latency_s = self.token_s[-1] - self.job.request.arrival_s
        return self.objective.is_met(self.ttft_s, self.tpot_s, latency_s)

    @property
    def meets_every_token(self) -> bool:
        """Whether every target was met, each token by its own due time."""
        promise, arrival_s = self.objective, self.job.request.arrival_s
        dues = (promise.token_due_s(arrival_s, n) for n in range(1, len(self.token_s) + 1))
        return self.is_whole and all(
            due is None or at <= due for at, due in zip(self.token_s, dues, strict=True)
        )


@dataclass(frozen=True, slots=True)
class Replay:
    """A whole run: each job's fate in order of arrival, and each step's mix and length."""

    served: tuple[Served, ...]
    steps: tuple[tuple[float, float, Mix], ...]  # when it began, how long it took, what it did

    @property
    def output_tokens_per_s(self) -> float:
        """Over the time from the first arrival to the last token."""
        first_s = min(done.job.request.arrival_s for done in self.served)
        last_s = max(done.token_s[-1] for done in self.served if done.token_s)
        return sum(len(done.token_s) for done in self.served) / (last_s - first_s)


class _Run:
    """One job on its way."""

    __slots__ = ("is_running", "job", "live", "token_s")

    def __init__(self, job: Job) -> None:
        request = job.request
        self.job = job
        self.live = Live(request, 0, request.prompt_tokens, 0, 0, arrival_s=request.arrival_s)
        self.token_s: list[float] = []
        self.is_running = False


class _Replica:
    """Running and waiting requests in order of arrival, and a pool of blocks of their own."""

    def __init__(self, policy: StepPolicy, blocks: int) -> None:
        self.policy = policy
        self.total = self.free = blocks
        self.runs: dict[str, _Run] = {}
        self.running: list[Live] = []
        self.waiting: list[Live] = []
        self.served: list[Served] = []

    def add(self, job: Job) -> None:
        run = self.runs[job.request.id] = _Run(job)
        insort(self.waiting, run.live, key=_order)

    def snapshot(self, now_s: float) -> Snapshot:
        blocks = Blocks(self.total, self.free, BLOCK_TOKENS)
        return Snapshot(now_s, self.running.copy(), self.waiting.copy(), blocks)

    def plan(self, now_s: float) -> Plan:
        plan = self.policy.plan(self.snapshot(now_s))
        for id in plan.expire:
            self._end(self.runs[id], FinishReason.EXPIRED)
        for preemption in plan.preempt:
            self._preempt(self.runs[preemption.request_id])
        return plan

    def start(self, plan: Plan) -> list[tuple[Live, int]]:
        """Take the blocks that the plan's tokens need."""
        steps = []
        for id, count in plan.tokens.items():
            run = self.runs[id]
            live = run.live
            steps.append((live, count))
            if not run.is_running:
                run.is_running = True
                self.waiting.remove(live)
                insort(self.running, live, key=_order)
            assert 1 <= count <= live.wanted_tokens, "the plan's tokens don't fit"
            held = max(live.held_blocks, -(-(live.cached_tokens + count) // BLOCK_TOKENS))
            self.free -= held - live.held_blocks
            live.held_blocks = held
        assert self.free >= 0, "the plan takes more blocks than there are"
        return steps

    def finish(self, steps: Sequence[tuple[Live, int]], now_s: float) -> None:
        """Account for a step that has ended."""
        for live, count in steps:
            live.cached_tokens += count
            if live.wanted_tokens:
                continue
            run = self.runs[live.request.id]
            live.known_tokens += 1
            live.output_tokens += 1
            live.last_token_s = now_s
            live.first_token_s = live.first_token_s or now_s
            run.token_s.append(now_s)
            if live.output_tokens == run.job.output_tokens:
                self._end(run, FinishReason.LENGTH)

    def _preempt(self, run: _Run) -> None:
        live, run.is_running = run.live, False
        self.running.remove(live)
        self.free += live.held_blocks
        live.cached_tokens = live.held_blocks = 0
        live.preemptions += 1
        insort(self.waiting, live, key=_order)

    def _end(self, run: _Run, reason: FinishReason) -> None:
        live = run.live
        (self.running if run.is_running else self.waiting).remove(live)
        self.free += live.held_blocks
        del self.runs[live.request.id]
        self.served.append(Served(run.job, tuple(run.token_s), reason, live.preemptions))
        self.policy.ended(live.request, live.output_tokens, reason)


def _order(live: Live) -> tuple[float, str]:
    return live.arrival_s, live.request.id


def replay(
    jobs: Iterable[Job],
    policy: StepPolicy,
    step_s: Callable[[Mix], float],
    *,
    blocks: int = 4096,
    host_s: float = HOST_S,
    learn: Callable[[Mix, float], object] | None = None,
    admits: Callable[[Request, Snapshot], bool] | None = None,
) -> Replay:
    """Serve jobs to their end on one virtual replica.

    `step_s` says how long a step really takes, which need not be what the policy believes; `learn`
    is told afterwards, as an engine tells its prices. `admits` is asked for every request that
    comes; one that it refuses is in no result.

    Raises:
        RuntimeError: the policy does nothing although there is work and nothing will arrive.
    """
    arriving = sorted(jobs, key=lambda job: (job.request.arrival_s, job.request.id), reverse=True)
    replica = _Replica(policy, blocks)
    now_s, steps = 0.0, []
    while arriving or replica.runs:
        if not replica.runs:
            now_s = max(now_s, arriving[-1].request.arrival_s)
        while arriving and arriving[-1].request.arrival_s <= now_s:
            job = arriving.pop()
            if admits is None or admits(job.request, replica.snapshot(now_s)):
                replica.add(job)
        if not replica.runs:
            continue
        ended = len(replica.served)
        planned = replica.start(replica.plan(now_s))
        if not planned:
            if not arriving and replica.runs and len(replica.served) == ended:
                raise RuntimeError(f"{len(replica.runs)} requests are left and none is planned")
            now_s = max(now_s, arriving[-1].request.arrival_s) if arriving else now_s
            continue
        mix = Mix.of((count, live.cached_tokens) for live, count in planned)
        took_s = step_s(mix) + host_s
        steps.append((now_s, took_s, mix))
        now_s += took_s
        replica.finish(planned, now_s)
        if learn is not None:
            learn(mix, took_s)
    served = sorted(replica.served, key=lambda done: done.job.request.arrival_s)
    return Replay(tuple(served), tuple(steps))


def clairvoyant(
    jobs: Iterable[Job],
    policy: StepPolicy,
    step_s: Callable[[Mix], float],
    *,
    blocks: int = 4096,
    host_s: float = HOST_S,
    learn: Callable[[Mix, float], object] | None = None,
) -> Replay:
    """`replay` with every true length known to the policy: what uncertainty costs, from above."""
    hinted = (job.hinted for job in jobs)
    return replay(hinted, policy, step_s, blocks=blocks, host_s=host_s, learn=learn)
