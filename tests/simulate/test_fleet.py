"""Replicas on a virtual clock: the same with and without jumps, with failures, with prefixes."""

from collections.abc import Callable

import pytest

from hfx.cost import StepCost
from hfx.request import FinishReason, Mix, Objective
from hfx.scheduler.dispatch_fixed import LeastLoaded, RoundRobin
from hfx.simulate import Device, Fleet, Job, Replica
from hfx.simulate.fleet import Failure

from .conftest import traffic

Make = Callable[..., Replica]


def test_decodes_are_priced_at_once_to_the_last_bit_as_one_by_one(cost: StepCost) -> None:
    device = Device(cost, slowdown=1.7, host_s=0.0003)
    contexts = [5, 900, 17, 4096]

    now_s, one_by_one = 3.25, []
    for n in range(200):
        now_s += device.step_s(Mix.of((1, context - 1 + n) for context in contexts))
        one_by_one.append(now_s)
    squares = sum(context * context for context in contexts)
    at_once = device.decode_ends_s(3.25, 200, 4, sum(contexts), squares)

    assert at_once.tolist() == one_by_one


@pytest.mark.parametrize("policy", ["fcfs", "edf", "hfx", "qoserve_like", "scorpio_like"])
@pytest.mark.parametrize("blocks", [7000, 150])
def test_token_times_with_jumps_are_those_without(
    make_replica: Make, policy: str, blocks: int
) -> None:
    jobs = traffic(150, rate=6.0)

    runs = []
    for jumps in (True, False):
        replicas = [make_replica(id, policy, blocks, jumps=jumps) for id in range(2)]
        runs.append(Fleet(replicas, LeastLoaded(), keep_tokens=True).run(jobs))
    jumped, stepped = runs

    assert [fate.token_s for fate in jumped.fates] == [fate.token_s for fate in stepped.fates]
    assert [f.is_on_time for f in jumped.fates] == [f.is_on_time for f in stepped.fates]
    assert jumped.steps == stepped.steps
    if policy != "scorpio_like":
        assert jumped.plans < stepped.plans


def test_tokens_are_on_time_exactly_if_none_is_past_its_due_time(make_replica: Make) -> None:
    jobs = traffic(200, rate=20.0)

    fates = Fleet([make_replica()], RoundRobin(), keep_tokens=True).run(jobs).fates

    for fate in fates:
        promise, arrival_s = fate.job.request.objective, fate.job.request.arrival_s
        dues = [promise.token_due_s(arrival_s, n + 1) for n in range(fate.output_tokens)]
        late = [s > due + 1e-9 for s, due in zip(fate.token_s or [], dues, strict=True) if due]
        assert fate.is_on_time is not any(late)
    assert 0 < sum(fate.is_on_time for fate in fates) < len(fates)


def test_one_seed_gives_one_result_noise_included(make_replica: Make) -> None:
    def run(seed: int) -> list[tuple[float | None, float | None]]:
        fates = (
            Fleet([make_replica(noise=1.0, seed=seed)], RoundRobin())
            .run(traffic(60, rate=5.0))
            .fates
        )
        return [(fate.first_s, fate.last_s) for fate in fates]

    assert run(1) == run(1)
    assert run(1) != run(2)


def test_requests_of_a_replica_that_dies_resume_elsewhere(make_replica: Make) -> None:
    jobs = traffic(60, rate=10.0)
    replicas = [make_replica(0), make_replica(1)]
    failures = [Failure(3.0, 0, back_after_s=2.0)]

    result = Fleet(
        replicas, LeastLoaded(), failures=failures, spawn=make_replica, keep_tokens=True
    ).run(jobs)

    assert all(fate.is_whole and fate.reason is FinishReason.STOP for fate in result.fates)
    assert all(len(fate.token_s or []) == fate.job.output_tokens for fate in result.fates)
    assert all(sorted(fate.token_s or []) == fate.token_s for fate in result.fates)
    assert any(fate.preemptions and fate.replica == 1 for fate in result.fates)
    assert result.accelerator_s == pytest.approx(2 * result.end_s - 2.0)


def test_requests_wait_where_no_replica_is_there(make_replica: Make) -> None:
    job = Job.of("a", 1.0, 100, 5, Objective())

    result = Fleet(
        [make_replica()], RoundRobin(), failures=[Failure(0.5, 0, 4.0)], spawn=make_replica
    ).run([job])

    assert result.fates[0].first_s is not None and result.fates[0].first_s > 4.5


def test_a_prompt_that_was_computed_before_is_found_by_its_hash_ids(make_replica: Make) -> None:
    jobs = [
        Job.of("a", 0.0, 2048, 4, Objective(), (1, 2, 3, 4)),
        Job.of("b", 5.0, 2048, 4, Objective(), (1, 2, 9, 10)),
        Job.of("c", 10.0, 1024, 4, Objective(), (1, 2)),
    ]
    replica = make_replica(prefixes=True)

    fates = Fleet([replica], RoundRobin()).run(jobs).fates

    assert replica.hit_tokens == 1024 + 960  # a whole prompt is never a hit: a block is recomputed
    assert fates[2].ttft_s < fates[1].ttft_s < fates[0].ttft_s
    assert replica.memory.available == replica.memory.total


def test_a_request_that_can_never_be_planned_is_an_error(make_replica: Make) -> None:
    job = Job.of("big", 0.0, 5000, 4, Objective())

    with pytest.raises(RuntimeError, match="1 requests are left"):
        Fleet([make_replica(blocks=10)], RoundRobin()).run([job])


def test_a_hard_deadline_ends_a_request(make_replica: Make) -> None:
    job = Job.of("late", 0.0, 100, 1000, Objective(deadline_s=1.0, on_miss="refuse"))

    fate = Fleet([make_replica()], RoundRobin()).run([job]).fates[0]

    assert fate.reason is FinishReason.EXPIRED
    assert not fate.meets and not fate.meets_every_token and 1 < fate.output_tokens < 1000
