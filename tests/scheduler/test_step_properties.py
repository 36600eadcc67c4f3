"""The multi-SLO policy in a world of its own: plans fit, all progress, nothing feasible is missed.

The world is the benchmarks' virtual replica; it asserts that each plan fits its blocks and tokens.
"""

from dataclasses import dataclass, field, replace

from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.slo_replay import BLOCK_TOKENS, HOST_S, Job, Replay, replay
from hfx.cost import Key, Mix, Regime, StepCost
from hfx.request import FinishReason, Objective, Plan, Request, Sampling
from hfx.scheduler import POLICIES, SlackPolicy, Snapshot, StepPolicy
from hfx.scheduler.draft import GENTLE_PARTS
from hfx.scheduler.policies import FIXED, PRICED

TOTAL = 24  # blocks of 64 tokens; the longest request needs 6
MOST_STEPS = 20_000
FIXED_S, EACH_S = 0.010 - HOST_S, 0.0005


def priced() -> StepCost:
    regime = Regime(knots_tokens=(0.0,), curve_s=(FIXED_S,), per_token_s=EACH_S, upper_factor=1.05)
    return StepCost(key=Key(device="toy", model="toy", dtype="bf16"), decode=regime, mixed=regime)


COST = priced()


def step_s(mix: Mix) -> float:
    return COST.step_s(mix).mean_s


@dataclass
class Watch:
    """A policy whose every plan is checked and kept."""

    policy: StepPolicy
    max_step_tokens: int
    max_running: int
    tile: int | None = None
    log: list[Plan] = field(default_factory=list)

    def plan(self, snapshot: Snapshot) -> Plan:
        plan = self.policy.plan(snapshot)
        running = {live.request.id: live for live in snapshot.running}
        lives = running | {live.request.id: live for live in snapshot.waiting}
        gone = {p.request_id for p in plan.preempt} | set(plan.expire)
        assert sum(plan.tokens.values()) <= self.max_step_tokens
        assert gone <= lives.keys() and not gone & plan.tokens.keys()
        assert {p.request_id for p in plan.preempt} <= running.keys()
        assert len((running.keys() | plan.tokens.keys()) - gone) <= self.max_running
        assert plan.relegated <= lives.keys()
        if self.tile:
            for id, n in plan.tokens.items():
                cut = n < lives[id].wanted_tokens and n % (self.tile // GENTLE_PARTS)
                fills_blocks = (lives[id].cached_tokens + n) % BLOCK_TOKENS == 0
                spent = sum(plan.tokens.values()) + len(plan.preempt) >= self.max_step_tokens
                assert not cut or fills_blocks or spent
        self.log.append(plan)
        assert len(self.log) < MOST_STEPS, "it does not end"
        return plan

    def ended(self, request: Request, output_tokens: int, reason: FinishReason) -> None:
        self.policy.ended(request, output_tokens, reason)


PROMISES = st.one_of(
    st.just(Objective()),
    st.builds(
        Objective,
        ttft_s=st.sampled_from([None, 0.05, 0.5, 5.0]),
        tpot_s=st.sampled_from([None, 0.012, 0.05, 0.5]),
        deadline_s=st.sampled_from([None, 0.3, 5.0, 100.0]),
        tier=st.sampled_from(["a", "b"]),
        weight=st.sampled_from([0.5, 1.0, 4.0]),
        on_miss=st.sampled_from(["relegate", "relegate", "refuse"]),
        may_relegate=st.booleans(),
    ),
)


@st.composite
def traffic(draw: st.DrawFn, promises: st.SearchStrategy[Objective] = PROMISES) -> list[Job]:
    made, at_s = [], 0.001
    for index in range(draw(st.integers(1, 14))):
        at_s += draw(st.sampled_from([0.0, 0.0, 0.01, 0.2, 3.0]))
        output = draw(st.integers(1, 60))
        request = Request(
            id=f"{index:02d}",
            prompt_token_ids=(0,) * draw(st.integers(1, 300)),
            sampling=Sampling(max_tokens=60),
            objective=draw(promises),
            arrival_s=at_s,
            priority=draw(st.integers(-1, 1)),
            expected_output_tokens=draw(st.sampled_from([None, None, output, 5])),
        )
        made.append(Job(request, output))
    return made


def watched(policy: StepPolicy, step_tokens: int, running: int, tile: int | None = None) -> Watch:
    return Watch(policy, step_tokens, running, tile)


def run(jobs: list[Job], watch: Watch, blocks: int = TOTAL) -> Replay:
    return replay(jobs, watch, step_s, blocks=blocks)


def hfx(step_tokens: int = 256, running: int = 6, tile: int = 16) -> Watch:
    policy = SlackPolicy(COST, max_step_tokens=step_tokens, max_running=running, tile_tokens=tile)
    return watched(policy, step_tokens, running, tile)


@settings(max_examples=60, deadline=None)
@given(traffic(), st.integers(1, 8), st.integers(0, 200), st.integers(6, TOTAL))
def test_plans_fit_and_everything_that_was_admitted_ends(
    jobs: list[Job], running: int, spare_tokens: int, blocks: int
) -> None:
    watch = hfx(running + spare_tokens, running)

    replayed = run(jobs, watch, blocks)

    assert len(replayed.served) == len(jobs)
    for done in replayed.served:
        promise = done.objective
        hard = promise.on_miss == "refuse" and promise.deadline_s is not None
        assert done.is_whole or (hard and done.reason is FinishReason.EXPIRED)


@settings(max_examples=25, deadline=None)
@given(traffic(), st.integers(6, TOTAL))
def test_the_same_traffic_gives_the_same_plans(jobs: list[Job], blocks: int) -> None:
    first, second = hfx(), hfx()

    run(jobs, first, blocks)
    run(jobs, second, blocks)

    assert first.log == second.log


@settings(max_examples=25, deadline=None)
@given(traffic(), st.sampled_from([name for name in POLICIES if name != "hfx"]))
def test_the_baselines_fit_and_end_too(jobs: list[Job], name: str) -> None:
    limits = {"max_step_tokens": 64, "max_running": 4}
    policy = FIXED[name](**limits) if name in FIXED else PRICED[name](cost=COST, **limits)
    plain = [
        replace(
            job,
            request=replace(
                job.request, objective=replace(job.request.objective, on_miss="relegate")
            ),
        )
        for job in jobs
    ]

    replayed = run(plain, watched(policy, 64, 4))

    assert all(done.is_whole for done in replayed.served)
