"""The multi-SLO policy in a world of its own: plans fit, all progress, nothing feasible is missed.

The world is the benchmarks' virtual replica; it asserts that each plan fits its blocks and tokens.
"""

import random
from dataclasses import dataclass, field, replace
from itertools import pairwise
from math import inf

from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.slo_replay import BLOCK_TOKENS, HOST_S, Job, Replay, replay
from hfx.cost import Key, Mix, Regime, StepCost
from hfx.request import FinishReason, Objective, Plan, Request, Sampling
from hfx.scheduler import (
    POLICIES,
    Admission,
    FirstComeFirstServed,
    SlackPolicy,
    Snapshot,
    StepPolicy,
)
from hfx.scheduler.chunks import GENTLE_PARTS
from hfx.scheduler.fcfs import filled
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


LEAST_STEP_S = 5.0  # virtual time in which every request that is live must have done something


@settings(max_examples=40, deadline=None)
@given(traffic(), st.integers(1, 6), st.integers(8, TOTAL))
def test_every_admitted_request_makes_progress_within_a_bound(
    jobs: list[Job], running: int, blocks: int
) -> None:
    """With all work there is taken one after another, the longest wait is the sum of it."""
    watch = hfx(64 + running, running)

    replayed = run(jobs, watch, blocks)

    bound_s = 3 * sum(
        step_s(Mix.one(job.request.prompt_tokens, 0)) + job.output_tokens * step_s(Mix.one(1, 400))
        for job in jobs
    )
    for done in replayed.served:
        at_s = (done.job.request.arrival_s, *done.token_s)
        assert all(b - a <= bound_s + LEAST_STEP_S for a, b in pairwise(at_s))


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 30))
def test_with_exact_prices_and_a_feasible_set_nothing_is_missed(seed: int, count: int) -> None:
    """Feasible by the demand-bound test with a quarter of the time to spare, lengths known."""
    policy = SlackPolicy(COST, max_step_tokens=512, max_running=64)
    admission = Admission(COST, policy.lengths, max_step_tokens=512, max_running=64, share=0.75)

    replayed = replay(
        promised(random.Random(seed), count),
        policy,
        step_s,
        admits=lambda request, snapshot: admission.answer(request, snapshot) is None,
    )

    assert [done for done in replayed.served if not done.meets] == []


def promised(draw: random.Random, count: int) -> list[Job]:
    jobs, at_s = [], 0.001
    for index in range(count):
        at_s += draw.choice((0.0, 0.0, 0.01, 0.2, 0.5, 2.0))
        output = draw.randint(1, 80)
        request = Request(
            id=f"{index:02d}",
            prompt_token_ids=(0,) * draw.randint(1, 800),
            sampling=Sampling(max_tokens=100),
            objective=Objective(
                ttft_s=draw.choice((None, 0.3, 1.0, 5.0)),
                tpot_s=draw.choice((None, 0.04, 0.1, 0.5)),
                deadline_s=draw.choice((None, None, 3.0, 10.0, 60.0)),
                on_miss="refuse",
            ),
            arrival_s=at_s,
            expected_output_tokens=output,
        )
        jobs.append(Job(request, output))
    return jobs


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 10**6))
def test_relegated_work_is_done_once_the_load_falls(seed: int) -> None:
    draw = random.Random(seed)
    burst = [
        Job(
            Request(
                id=f"{index:03d}",
                prompt_token_ids=(0,) * draw.randint(50, 300),
                sampling=Sampling(max_tokens=60),
                objective=Objective(ttft_s=0.5, tpot_s=0.05),
                arrival_s=0.001 + index * 0.005,
            ),
            draw.randint(1, 30),
        )
        for index in range(40)
    ]
    late = replace(burst[0].request, id="late", arrival_s=30.0)
    watch = hfx()

    replayed = run([*burst, Job(late, 5)], watch)

    lost = set().union(*(plan.relegated for plan in watch.log))
    assert lost, "the burst was meant to be too much"
    assert all(done.is_whole for done in replayed.served)
    assert not watch.log[-1].relegated
    assert next(done for done in replayed.served if done.job.request.id == "late").meets


def test_the_chunk_that_keeps_the_tightest_tpot_in_every_step_is_a_bad_idea() -> None:
    """The negative control: chunks bounded by TPOT step by step instead of by gathered slack."""
    jobs = mixed_traffic(rate=7.0, seconds=60.0)

    ours = replay(jobs, SlackPolicy(COST, max_step_tokens=2048, max_running=64), step_s)
    naive = replay(jobs, NaivePerStepTpot(), step_s)

    assert met(ours) > met(naive) + 0.2


def mixed_traffic(rate: float, seconds: float) -> list[Job]:
    """Tight streams beside long prompts, whose first tokens are due soon."""
    draw, jobs, at_s = random.Random(3), [], 0.0
    tiers = (
        (Objective(ttft_s=0.5, tpot_s=0.025, tier="tight"), 40),
        (Objective(ttft_s=1.5, tpot_s=0.2, tier="long"), 400),
    )
    while (at_s := at_s + draw.expovariate(rate)) < seconds:
        promise, prompt = tiers[len(jobs) % 2]
        request = Request(
            id=f"{len(jobs):04d}",
            prompt_token_ids=(0,) * draw.randint(prompt // 2, prompt),
            sampling=Sampling(max_tokens=200),
            objective=promise,
            arrival_s=at_s + 0.001,
        )
        jobs.append(Job(request, draw.randint(5, 40)))
    return jobs


class NaivePerStepTpot(FirstComeFirstServed):
    """Every step, chunk included, as short as the tightest TPOT of the decodes in it."""

    def plan(self, snapshot: Snapshot) -> Plan:
        decodes = [live for live in snapshot.running if live.is_decoding]
        tightest_s = min((live.request.objective.tpot_s or inf for live in decodes), default=inf)
        mix = Mix.of((1, live.cached_tokens) for live in decodes)
        chunk = COST.prefill_tokens_within(tightest_s, mix, 0) if decodes else 2048
        return filled(snapshot, snapshot.running, snapshot.waiting, len(decodes) + chunk, 64)


def met(replayed: Replay) -> float:
    return sum(done.meets for done in replayed.served) / len(replayed.served)


def test_a_long_prompt_is_in_time_and_the_streams_beside_it_hardly_notice() -> None:
    chat = Objective(ttft_s=30.0, tpot_s=0.03, tier="chat")
    chats = [
        Job(
            Request(
                id=f"{index:02d}",
                prompt_token_ids=(0,) * 40,
                sampling=Sampling(max_tokens=4000),
                objective=chat,
                arrival_s=0.001,
            ),
            2500,
        )
        for index in range(16)
    ]
    long = Request(
        id="long", prompt_token_ids=(0,) * 6000, objective=Objective(ttft_s=40.0), arrival_s=2.0
    )

    alone = replay(chats, SlackPolicy(COST), step_s)
    beside = replay([*chats, Job(long, 1)], SlackPolicy(COST), step_s)

    (late,) = (done for done in beside.served if done.job.request.id == "long")
    assert late.meets
    end_s = long.arrival_s + late.ttft_s
    assert p99_gap_s(beside, 2.0, end_s) <= 1.25 * p99_gap_s(alone, 2.0, end_s)
    assert all(done.meets for done in beside.served)


def p99_gap_s(replayed: Replay, begin_s: float, end_s: float) -> float:
    gaps = sorted(
        b - a
        for done in replayed.served
        for a, b in pairwise(done.token_s)
        if begin_s <= a and b <= end_s
    )
    return gaps[len(gaps) * 99 // 100]
