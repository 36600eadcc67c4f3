"""The baselines: what sets each apart, on prices that can be checked by hand.

A step costs 10 ms, and 1 ms more for each decode and each prompt token.
"""

import pytest

from hfx.config import SchedulerConfig
from hfx.cost import StepCost
from hfx.request import FinishReason
from hfx.scheduler import (
    POLICIES,
    EarliestDueFirst,
    HfxReconstruction,
    Priority,
    QoServeLike,
    ScorpioLike,
    ShortestPromptFirst,
    SlackPolicy,
    build,
)
from tests.scheduler.builders import decodes, snapshot, waits


def test_every_policy_is_built_by_its_name_with_its_limits(cost: StepCost) -> None:
    assert set(POLICIES) == {
        "hfx",
        "fcfs",
        "edf",
        "srpf",
        "priority",
        "qoserve_like",
        "scorpio_like",
        "hfx_reconstruction",
    }
    for name in POLICIES:
        config = SchedulerConfig(
            scheduling_policy=name,  # type: ignore[arg-type]
            max_num_batched_tokens=96,
            max_num_seqs=3,
        )

        policy = build(config, cost, 8)

        assert (policy.max_step_tokens, policy.max_running) == (96, 3)  # type: ignore[attr-defined]
        assert not isinstance(policy, SlackPolicy) or policy.tile_tokens == 8


def test_a_policy_that_plans_by_prices_says_so_where_there_are_none() -> None:
    with pytest.raises(ValueError, match=r"'hfx' plans by prices .*cost_profile.* fcfs"):
        build(SchedulerConfig(scheduling_policy="hfx"), None)


def test_priority_orders_who_waits_but_lets_who_runs_go_on() -> None:
    waiting = [waits("first", 20), waits("urgent", 20, 0.1, priority=-1)]
    running = [waits("begun", 30, priority=5)]
    running[0].cached_tokens, running[0].held_blocks = 8, 1

    plan = Priority(max_step_tokens=50, max_running=8).plan(snapshot(1.0, running, waiting))

    assert plan.tokens == {"begun": 22, "urgent": 20, "first": 8}


def test_priority_takes_blocks_from_the_least_important() -> None:
    # The two decodes are at a block's end: both need another one, and none is free.
    running = [decodes("high", 1, prompt=32, priority=0), decodes("low", 1, prompt=32, priority=1)]

    plan = Priority(max_step_tokens=50, max_running=8).plan(snapshot(1.0, running, free=0))

    assert [p.request_id for p in plan.preempt] == ["low"]
    assert plan.tokens == {"high": 1}


def test_edf_lets_a_more_urgent_prompt_pass_one_that_has_begun() -> None:
    begun = waits("begun", 100, ttft_s=9.0)
    begun.cached_tokens, begun.held_blocks = 16, 1
    urgent = waits("urgent", 40, 0.5, ttft_s=1.0)

    plan = EarliestDueFirst(max_step_tokens=64, max_running=8).plan(
        snapshot(1.0, [begun], [urgent])
    )

    assert plan.tokens == {"urgent": 40, "begun": 24}


def test_srpf_prefers_what_is_nearly_done() -> None:
    waiting = [waits("long", 100, ttft_s=0.1), waits("short", 30, 0.5)]

    plan = ShortestPromptFirst(max_step_tokens=64, max_running=8).plan(snapshot(1.0, [], waiting))

    assert plan.tokens == {"short": 30, "long": 34}


def test_qoserve_chunks_by_the_least_slack_of_decodes_and_relegates(cost: StepCost) -> None:
    # Token 2 is due 0.3 s after the first, at 0: 0.2 s from now, of which its step takes 11 ms.
    running = [decodes("d", 1, ttft_s=0.2, tpot_s=0.3001)]
    lost = waits("lost", 300, ttft_s=0.2)
    kept = waits("kept", 400, 0.05, ttft_s=2.0)
    policy = QoServeLike(cost=cost, max_step_tokens=512, max_running=8)

    plan = policy.plan(snapshot(0.1, running, [lost, kept]))

    assert plan.tokens == {"d": 1, "kept": 189}


def test_scorpio_runs_a_loose_decode_as_often_as_its_credits_allow(cost: StepCost) -> None:
    policy = ScorpioLike(cost=cost, max_step_tokens=512, max_running=8)
    running = [decodes("tight", 1, tpot_s=0.05), decodes("loose", 1, tpot_s=0.2)]

    steps = [policy.plan(snapshot(0.0, running)).tokens for _ in range(8)]

    assert sum("tight" in tokens for tokens in steps) == 8
    assert sum("loose" in tokens for tokens in steps) == 2
    policy.ended(running[1].request, 3, FinishReason.STOP)


def test_scorpio_admits_as_many_streams_as_the_tightest_tpot_bears(cost: StepCost) -> None:
    policy = ScorpioLike(cost=cost, max_step_tokens=512, max_running=64)
    running = [decodes(f"{i:02d}", 1, tpot_s=0.02) for i in range(9)]
    waiting = [waits("fits", 8, ttft_s=9.0, tpot_s=0.02), waits("late", 8, ttft_s=9.0, tpot_s=0.02)]

    first = policy.plan(snapshot(0.0, running, waiting[:1])).tokens
    second = policy.plan(snapshot(0.0, [*running, decodes("x", 1, tpot_s=0.02)], waiting[1:]))

    assert "fits" in first  # 10 streams: 20 ms
    assert "late" not in second.tokens  # 11 would be 21 ms


def test_the_reconstruction_goes_by_slack_and_gives_nothing_up(cost: StepCost) -> None:
    running = [decodes("d", 1, tpot_s=0.1)]  # due in 0.1 s: 89 tokens fit
    lost = waits("lost", 300, ttft_s=0.2)
    kept = waits("kept", 400, 0.05, ttft_s=2.0)
    policy = HfxReconstruction(cost=cost, max_step_tokens=512, max_running=8)

    plan = policy.plan(snapshot(0.0, running, [kept, lost]))

    assert plan.tokens == {"d": 1, "lost": 89}
    assert not plan.relegated
