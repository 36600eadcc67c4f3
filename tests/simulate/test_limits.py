"""Limits: what an idle replica keeps, what a fluid bounds, what is kept with the future known."""

from collections.abc import Sequence
from itertools import combinations

import numpy as np
import pytest

from hfx.cost import StepCost
from hfx.request import Mix, Objective
from hfx.simulate import Device, Job, Result
from hfx.simulate.limits import alone, feasible_alone
from hfx.simulate.limits_clairvoyant import clairvoyant
from hfx.simulate.limits_fluid import fluid_limit
from hfx.simulate.limits_prices import Line, decode_lines, mixed_lines
from hfx.simulate.setup import FleetSpec, PolicyName
from hfx.simulate.workload import MIXES, generated

FULL_STEP = 2048


def served(cost: StepCost, jobs: Sequence[Job], policy: str, replicas: int) -> Result:
    spec = FleetSpec(profiles=(cost,), replicas=replicas, policy=PolicyName.parse(policy))
    return spec.fleet().run(jobs)


def kept(result: Result) -> int:
    return sum(fate.meets for fate in result.fates)


@pytest.mark.parametrize(
    ("prompt", "output"), [(1, 1), (300, 40), (2048, 2), (2049, 17), (20_000, 300)]
)
def test_alone_is_what_a_fleet_of_one_idle_replica_takes(
    cost: StepCost, prompt: int, output: int
) -> None:
    job = Job.of("r", 0.0, prompt, output, Objective(ttft_s=1.0, tpot_s=0.02))
    times = alone(job, Device(cost))
    (fate,) = served(cost, [job], "least_loaded+fcfs_2048", 1).fates
    assert times.ttft_s == pytest.approx(fate.ttft_s, rel=1e-12)
    assert times.tpot_s == pytest.approx(fate.tpot_s, rel=1e-9, abs=1e-15)
    assert bool(feasible_alone([job], [cost])) == fate.meets


def test_no_run_keeps_a_promise_that_is_not_feasible_alone(cost: StepCost) -> None:
    jobs = generated(MIXES["M3"], 4.0, 20.0, 1, kind="poisson", slo_scale=0.4)
    feasible = feasible_alone(jobs, [cost])
    assert 0 < len(feasible) < len(jobs)
    for policy in ("hfx", "least_loaded+fcfs_2048"):
        met = {fate.job.request.id for fate in served(cost, jobs, policy, 4).fates if fate.meets}
        assert met <= feasible


def test_a_prompt_that_memory_cannot_hold_is_not_feasible(cost: StepCost) -> None:
    job = Job.of("r", 0.0, 1000, 10, Objective(ttft_s=9.0))
    assert feasible_alone([job], [cost], kv_tokens=1010)
    assert not feasible_alone([job], [cost], kv_tokens=1009)


def total_s(line: Line, mix: Mix) -> float:
    return (
        line.step_s
        + line.prompt_token_s * mix.prefill_tokens
        + line.decode_s * mix.decodes
        + line.chunk_s * mix.chunks
        + line.context_token_s * mix.decode_context_tokens
        + line.history_token_s * mix.prefill_context_tokens
        + line.pair_s * mix.attention_pairs
    )


def test_every_line_lies_below_every_step(cost: StepCost) -> None:
    rng = np.random.default_rng(0)
    decode, mixed = decode_lines(cost), mixed_lines(cost, FULL_STEP)
    for _ in range(400):
        contexts = rng.integers(2, 8000, rng.integers(0, 200))
        plain = Mix.of((1, int(context) - 1) for context in contexts)
        chunk = int(rng.integers(2, FULL_STEP - len(contexts)))
        step = plain + Mix.one(chunk, int(rng.integers(0, 9000)))
        took_s = cost.step_s(step).mean_s * (1 + 1e-12)
        assert max(total_s(line, step) for line in mixed) <= took_s
        assert max(total_s(line, plain) for line in decode) <= took_s
        if len(contexts):
            plain_s = cost.step_s(plain).mean_s * (1 + 1e-12)
            assert max(total_s(line, plain) for line in decode) <= plain_s


def prompts(count: int, tokens: int, horizon_s: float) -> list[Job]:
    """Prompts with outputs of one token, evenly spread, to be answered at once or so."""
    gap_s = horizon_s / count
    promise = Objective(ttft_s=0.2)
    return [Job.of(f"r{n}", n * gap_s, tokens, 1, promise) for n in range(count)]


@pytest.mark.parametrize("replicas", [1, 3])
def test_prompts_alone_are_bounded_by_the_time_of_full_steps(cost: StepCost, replicas: int) -> None:
    jobs, step_s = prompts(500, FULL_STEP, 10.0), cost.step_s(Mix.one(FULL_STEP, 0)).mean_s
    limit = fluid_limit(jobs, 10.0, [cost] * replicas, steady=True)
    assert limit.kept == pytest.approx(min(1.0, replicas * 10.0 / (500 * step_s)), rel=1e-6)


def test_a_pace_faster_than_a_step_keeps_nobody(cost: StepCost) -> None:
    floor_s = cost.step_s(Mix(1, 2)).mean_s
    for factor, expected in ((0.97, 0.0), (1.2, 1.0)):
        promise = Objective(ttft_s=1.0, tpot_s=factor * floor_s)
        jobs = [Job.of(f"r{n}", n * 1.0, 10, 20, promise) for n in range(10)]
        assert fluid_limit(jobs, 10.0, [cost] * 4, steady=True).kept == pytest.approx(expected)


def test_a_stream_that_is_hosted_takes_its_share_of_an_instance(cost: StepCost) -> None:
    tight = Objective(ttft_s=0.1, tpot_s=1.5 * cost.step_s(Mix(1, 2)).mean_s, tier="tight")
    streams = [Job.of(f"t{n}", 0.05 * n, 10, 400, tight) for n in range(400)]
    work = prompts(400, FULL_STEP, 20.0)
    free = fluid_limit(work, 20.0, [cost] * 2, steady=True)
    both = fluid_limit([*work, *streams], 20.0, [cost] * 2, steady=True)
    assert both.by_class["tight"] == pytest.approx(1.0)
    assert free.kept == pytest.approx(1.0)
    assert both.by_class["default"] < 0.7, "one of two instances does little but decode"


def test_the_fluid_limit_is_above_the_best_subset_of_a_few_prompts(cost: StepCost) -> None:
    sizes, due_s = (500, 900, 1500, 2000, 4000, 6000), 0.25
    jobs = [Job.of(f"r{n}", 0.0, size, 1, Objective(ttft_s=due_s)) for n, size in enumerate(sizes)]
    best = max(
        kept(served(cost, subset, policy, 1))
        for count in range(1, len(jobs) + 1)
        for subset in combinations(jobs, count)
        for policy in ("least_loaded+fcfs_2048", "least_loaded+srpf_2048")
    )
    limit = fluid_limit(jobs, due_s, [cost])
    assert 0 < best < len(jobs)
    assert best <= limit.kept * len(jobs) + 1e-9 < len(jobs)


@pytest.mark.parametrize(("mix", "rate"), [("M1", 32.0), ("M2", 32.0), ("M3", 8.0)])
@pytest.mark.parametrize("scale", [1.0, 0.6])
def test_the_fluid_limit_is_above_every_run(
    cost: StepCost, mix: str, rate: float, scale: float
) -> None:
    jobs = generated(MIXES[mix], rate, 5.0, 3, kind="poisson", slo_scale=scale)
    limit = fluid_limit(jobs, 5.0, [cost], feasible=feasible_alone(jobs, [cost]))
    for policy in ("hfx", "least_loaded+fcfs_2048", "least_loaded+edf_512"):
        assert kept(served(cost, jobs, policy, 1)) <= limit.kept * len(jobs) + 1e-6


def test_the_fluid_limit_falls_with_load_and_rises_with_replicas(cost: StepCost) -> None:
    def limit(rate: float, replicas: int) -> float:
        jobs = generated(MIXES["M1"], rate, 20.0, 0, kind="poisson")
        return fluid_limit(jobs, 20.0, [cost] * replicas, steady=True).kept

    assert limit(8, 1) > limit(16, 1) > limit(32, 1)
    assert limit(32, 1) < limit(32, 2) < limit(32, 4)


def test_a_fleet_of_two_kinds_lies_between_its_kinds(cost: StepCost) -> None:
    from hfx.simulate.setup import believed

    slow = believed(cost, 2.0)
    jobs = prompts(500, FULL_STEP, 10.0)
    fast_s, mixed, slow_s = (
        fluid_limit(jobs, 10.0, fleet, steady=True).kept
        for fleet in ([cost, cost], [cost, slow], [slow, slow])
    )
    assert mixed == pytest.approx((fast_s + slow_s) / 2, rel=1e-6)


def test_questions_about_nothing_are_refused(cost: StepCost) -> None:
    with pytest.raises(ValueError, match="0 jobs"):
        fluid_limit([], 1.0, [cost])
    with pytest.raises(ValueError, match="0 rounds"):
        clairvoyant(
            prompts(1, 10, 1.0), lambda jobs: served(cost, jobs, "hfx", 1), cost,
            feasible=frozenset(), rounds=0,
        )  # fmt: skip


def test_the_clairvoyant_run_tells_every_fate_by_the_real_promises(cost: StepCost) -> None:
    jobs = generated(MIXES["M1"], 16.0, 5.0, 0, kind="poisson", slo_scale=0.6)
    feasible = feasible_alone(jobs, [cost])
    seen: list[Sequence[Job]] = []

    def serve(some: Sequence[Job]) -> Result:
        seen.append(some)
        return served(cost, some, "hfx", 1)

    found = clairvoyant(jobs, serve, cost, feasible=feasible, rounds=3)
    assert [fate.job for fate in found.result.fates] == jobs
    assert kept(found.result) == round(max(found.kept) * len(jobs))
    assert len(seen) == len(found.kept) == 3
    assert all(job.request.expected_output_tokens == job.output_tokens for job in seen[0])
    assert all(job.request.expected_output_tokens is None for job in seen[1])
    assert all({job.request.id for job in some} <= feasible for some in seen)
    assert len(seen[2]) < len(seen[1]) == len(seen[0]), "some of those who missed are left out"
    unserved = [fate for fate in found.result.fates if fate.reason is None]
    assert len(unserved) == found.left_out
    assert not any(fate.meets for fate in unserved)
