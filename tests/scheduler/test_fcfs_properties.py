"""First come, first served in a world of its own: whatever arrives, plans fit and everything ends.

The world counts blocks as an engine does, with prefixes shared by groups of requests; it computes
nothing.
"""

from dataclasses import dataclass

from hypothesis import given, settings
from hypothesis import strategies as st

from hfx.request import Plan, Request
from hfx.scheduler import Blocks, FirstComeFirstServed, Live, Snapshot

BLOCK_TOKENS = 4
TOTAL = 10  # blocks; the longest request needs 9
MAX_STEPS = 2000


@dataclass
class Job:
    """One request; its first `prefix` blocks hold the same tokens as those of its group."""

    request: Request
    group: int
    prefix: int
    wanted_output: int
    output: int = 0
    cached: int = 0
    blocks: tuple[object, ...] = ()

    @property
    def known(self) -> int:
        return self.request.prompt_tokens + self.output


class World:
    """Counts blocks: shared ones are named by group and index, others by owner and index."""

    def __init__(self, jobs: list[Job], step_tokens: int, running: int) -> None:
        self.policy = FirstComeFirstServed(max_step_tokens=step_tokens, max_running=running)
        self.step_tokens, self.max_running = step_tokens, running
        self.waiting = jobs
        self.running: list[Job] = []
        self.log: list[Plan] = []

    def held(self) -> set[object]:
        return {block for job in self.running for block in job.blocks}

    def computed(self) -> set[object]:
        """Blocks whose tokens are in the cache, for whoever shares them."""
        return {b for job in self.running for b in job.blocks[: job.cached // BLOCK_TOKENS]}

    def hit(self, job: Job) -> tuple[object, ...]:
        """Prefix blocks that running requests have computed; nothing idle is kept here."""
        names = self.names(job, min(job.prefix, (job.known - 1) // BLOCK_TOKENS))
        present = [name in self.computed() for name in names]
        return names[: present.index(False)] if False in present else names

    def names(self, job: Job, count: int) -> tuple[object, ...]:
        return tuple(
            ("group", job.group, i) if i < job.prefix else (job.request.id, i) for i in range(count)
        )

    def snapshot(self) -> Snapshot:
        def shared(job: Job) -> int:
            others = {b for other in self.running if other is not job for b in other.blocks}
            return len(others.intersection(job.blocks))

        running = [
            Live(j.request, j.cached, j.known, j.output, len(j.blocks), shared(j))
            for j in self.running
        ]
        waiting = []
        for job in self.waiting:
            blocks = len(self.hit(job))
            waiting.append(Live(job.request, blocks * BLOCK_TOKENS, job.known, job.output, blocks))
        free = TOTAL - len(self.held())
        return Snapshot(0.0, running, waiting, Blocks(TOTAL, free, BLOCK_TOKENS))

    def step(self) -> None:
        snapshot = self.snapshot()
        oldest = min((*self.running, *self.waiting), key=lambda job: int(job.request.id))
        plan = self.policy.plan(snapshot)
        assert plan == self.policy.plan(snapshot), "the same snapshot gave another plan"
        assert sum(plan.tokens.values()) <= self.step_tokens
        assert oldest.request.id in plan.tokens, "the oldest request did not advance"
        self.log.append(plan)
        self.apply(plan)

    def apply(self, plan: Plan) -> None:
        hits = {job.request.id: self.hit(job) for job in self.waiting}
        for preemption in plan.preempt:
            job = next(j for j in self.running if j.request.id == preemption.request_id)
            self.running.remove(job)
            job.cached, job.blocks = 0, ()
            self.waiting = sorted([*self.waiting, job], key=lambda job: int(job.request.id))
        for job in [job for job in self.waiting if job.request.id in plan.tokens]:
            job.blocks = hits[job.request.id]
            job.cached = len(job.blocks) * BLOCK_TOKENS
            self.waiting.remove(job)
            self.running = sorted([*self.running, job], key=lambda job: int(job.request.id))
        assert len(self.running) <= self.max_running
        for job in self.running:
            self.advance(job, plan.tokens.get(job.request.id, 0))
        assert len(self.held()) <= TOTAL, "the plan did not fit"
        self.running = [job for job in self.running if job.output < job.wanted_output]

    def advance(self, job: Job, take: int) -> None:
        assert take <= job.known - job.cached
        job.cached += take
        count = -(-job.cached // BLOCK_TOKENS)
        own = [(job.request.id, i) for i in range(len(job.blocks), count)]  # computed by itself
        job.blocks = (*job.blocks, *own)
        if take and job.cached == job.known:
            job.output += 1
            self.publish(job)

    def publish(self, job: Job) -> None:
        """Let the group find the prefix that it computed, unless another's is found already."""
        names = self.names(job, job.prefix)
        if not self.held().intersection(names):
            job.blocks = names + job.blocks[job.prefix :]


@st.composite
def jobs(draw: st.DrawFn) -> list[Job]:
    made = []
    for index in range(draw(st.integers(1, 8))):
        prompt = draw(st.integers(1, 28))
        made.append(
            Job(
                Request(id=str(index), prompt_token_ids=(0,) * prompt),
                group=draw(st.integers(0, 1)),
                prefix=draw(st.integers(0, 3)) if prompt > 12 else 0,
                wanted_output=draw(st.integers(1, 8)),
            )
        )
    return made


@settings(max_examples=150, deadline=None)
@given(jobs(), st.integers(1, 4), st.integers(0, 12))
def test_plans_fit_the_oldest_always_advances_and_everything_ends(
    arrivals: list[Job], running: int, spare_tokens: int
) -> None:
    world = World(arrivals, running + spare_tokens, running)

    for _ in range(MAX_STEPS):
        if not world.running and not world.waiting:
            break
        world.step()

    assert not world.running and not world.waiting
