"""The multi-SLO policy: exact plans on prices that can be checked by hand.

A step costs 10 ms, and 1 ms more for each decode and each prompt token; tiles are 16 tokens.
"""

from dataclasses import replace

import pytest

from hfx.cost import StepCost
from hfx.request import FinishReason, Plan
from hfx.scheduler import SlackPolicy
from tests.scheduler.builders import decodes, priced, snapshot, waits


def policy(cost: StepCost, tokens: int = 2048, running: int = 64) -> SlackPolicy:
    return SlackPolicy(cost, max_step_tokens=tokens, max_running=running)


def preempted(plan: Plan) -> list[str]:
    return [preemption.request_id for preemption in plan.preempt]


def test_impossible_limits_are_refused_with_their_values(cost: StepCost) -> None:
    with pytest.raises(ValueError, match="max_step_tokens 3"):
        SlackPolicy(cost, max_step_tokens=3, max_running=4)


def test_without_decodes_a_prompt_is_computed_at_once_if_it_must(cost: StepCost) -> None:
    hurried = policy(cost).plan(snapshot(0.0, waiting=[waits("a", 500, ttft_s=0.6)]))
    relaxed = policy(cost).plan(snapshot(0.0, waiting=[waits("a", 500, ttft_s=5.0)]))

    assert hurried.tokens == {"a": 500}
    assert relaxed.tokens == {"a": 192}  # 200 ms: twenty times the fixed cost amortise it


def test_a_chunk_is_what_fits_into_the_slack_of_the_tightest_decode(cost: StepCost) -> None:
    # 100 ms of slack, 90 of them to spend, 12 for the step's two decodes: 78 tokens. The nearest
    # tile is 80, and 92 ms are within the slack.
    running = [decodes("tight", 1, tpot_s=0.1), decodes("loose", 1, tpot_s=9.0)]

    plan = policy(cost).plan(snapshot(0.0, running, [waits("p", 500, ttft_s=2.0)]))

    assert plan.tokens == {"tight": 1, "loose": 1, "p": 80}


def test_tokens_that_came_early_pay_for_a_longer_step(cost: StepCost) -> None:
    # The first token came at 0, nine more by 0.5: the next one is due at 1.0.
    running = [decodes("ahead", 10, tpot_s=0.1)]

    plan = policy(cost).plan(snapshot(0.5, running, [waits("p", 2000, ttft_s=3.0)]))

    assert plan.tokens == {"ahead": 1, "p": 432}


def test_the_budget_is_by_the_upper_bound_of_the_price() -> None:
    running = [decodes("tight", 1, tpot_s=0.1)]

    plan = policy(priced(upper=1.25)).plan(snapshot(0.0, running, [waits("p", 500, ttft_s=2.0)]))

    assert plan.tokens == {"tight": 1, "p": 64}  # 75 ms at the mean are 94 at the bound


def test_several_prompts_share_a_step_in_order_of_due_time(cost: StepCost) -> None:
    waiting = [waits("late", 40, ttft_s=0.9), waits("soon", 40, ttft_s=0.4)]
    running = [decodes("d", 1, tpot_s=0.1)]

    plan = policy(cost).plan(snapshot(0.0, running, waiting))

    assert plan.tokens == {"d": 1, "soon": 40, "late": 32}


def test_a_decode_that_is_ahead_sits_out_when_a_tight_one_needs_the_step(cost: StepCost) -> None:
    # 20 decodes are 30 ms: too long for the tight one; the others have 2 s each.
    running = [decodes("tight", 1, tpot_s=0.02)]
    running += [decodes(f"loose{i:02d}", 1, tpot_s=2.0) for i in range(19)]

    plan = policy(cost).plan(snapshot(0.0, running))

    assert plan.tokens["tight"] == 1
    assert len(plan.tokens) <= 8  # 10 ms and 8 for as many decodes: 18, nine tenths of 20


def test_nobody_sits_out_for_ever(cost: StepCost) -> None:
    ours = policy(cost)
    running = [decodes("tight", 1, tpot_s=0.02)]
    running += [decodes(f"free{i:02d}", 1) for i in range(19)]

    steps = [ours.plan(snapshot(0.0, running)).tokens for _ in range(10)]

    for live in running:
        assert any(live.request.id in tokens for tokens in steps)


def test_a_prompt_with_time_to_spare_hardly_lengthens_the_steps_of_many_streams(
    cost: StepCost,
) -> None:
    streams = [decodes(f"s{i:02d}", 1, tpot_s=0.2) for i in range(16)]  # a step of them is 26 ms

    calm = policy(cost).plan(snapshot(0.0, streams, [waits("p", 2000, ttft_s=60.0)]))
    pressed = policy(cost).plan(snapshot(0.0, streams, [waits("p", 2000, ttft_s=3.0)]))

    assert calm.tokens["p"] == 4  # 30 ms are 1.2 times a step of decodes, less a gap in the tile
    assert pressed.tokens["p"] > 100


def test_best_effort_is_limited_by_nothing_but_the_tokens_of_a_step(cost: StepCost) -> None:
    running = [decodes("d", 1)]

    plan = policy(cost, 512).plan(snapshot(0.0, running, [waits("a", 300), waits("b", 300)]))

    assert plan.tokens == {"d": 1, "a": 300, "b": 211}


def test_a_promise_that_is_lost_is_served_behind_those_that_can_be_kept(cost: StepCost) -> None:
    lost = waits("lost", 300, ttft_s=0.31)
    kept = waits("kept", 40, ttft_s=1.0, arrival_s=0.01)

    plan = policy(cost).plan(snapshot(0.1, waiting=[lost, kept]))

    assert plan.relegated == {"lost"}
    assert plan.tokens == {"kept": 40, "lost": 48}


def test_a_promise_that_may_not_be_relegated_keeps_its_place(cost: StepCost) -> None:
    lost = waits("lost", 300, ttft_s=0.2, may_relegate=False)

    plan = policy(cost).plan(snapshot(0.1, waiting=[lost]))

    assert plan.relegated == frozenset()
    assert plan.tokens == {"lost": 300}


def test_an_expired_promise_is_not_the_most_urgent(cost: StepCost) -> None:
    old = waits("old", 40, ttft_s=0.1, may_relegate=False)
    new = waits("new", 40, ttft_s=0.06, arrival_s=9.0)

    plan = policy(cost, 64, 8).plan(snapshot(9.0, waiting=[old, new]))

    assert list(plan.tokens) == ["new"]  # and the step ends in time for it


def test_where_not_all_can_be_kept_the_largest_is_put_off(cost: StepCost) -> None:
    # 0.9 of the time is for prompts: 450 ms until 0.5 s, and 480 are asked for.
    waiting = [waits("big", 400, ttft_s=0.48), waits("small", 80, ttft_s=0.5)]

    plan = policy(cost, 400, 8).plan(snapshot(0.0, waiting=waiting))

    assert list(plan.tokens) == ["small", "big"]


def test_a_heavier_promise_is_put_off_later(cost: StepCost) -> None:
    waiting = [waits("big", 400, ttft_s=0.48, weight=9.0), waits("small", 80, ttft_s=0.5)]

    plan = policy(cost, 400, 8).plan(snapshot(0.0, waiting=waiting))

    assert list(plan.tokens) == ["big"]


def test_a_hard_deadline_that_has_passed_ends_its_request(cost: StepCost) -> None:
    ours = policy(cost)
    hard = waits("hard", 40, deadline_s=1.0, on_miss="refuse")
    soft = waits("soft", 40, deadline_s=1.0)
    ours.plan(snapshot(0.0, [], [hard, soft]))

    plan = ours.plan(snapshot(1.5, [], [hard, soft]))

    assert plan.expire == ("hard",)
    assert "hard" not in plan.tokens and plan.relegated == {"soft"}


def test_a_prefix_hit_makes_a_prompt_cheap_enough_to_be_in_time(cost: StepCost) -> None:
    missed = waits("p", 400, ttft_s=0.2)
    hit = replace(waits("p", 400, ttft_s=0.2), cached_tokens=320, held_blocks=20)

    assert policy(cost).plan(snapshot(0.0, [], [missed])).relegated == {"p"}
    assert policy(cost).plan(snapshot(0.0, [], [hit])).relegated == frozenset()


def test_a_hit_that_appears_while_it_waits_is_seen_before_a_promise_is_given_up(
    cost: StepCost,
) -> None:
    live = waits("p", 400, ttft_s=0.2)

    def refresh(asked: object) -> None:
        assert asked is live
        live.cached_tokens, live.held_blocks = 320, 20

    seen = replace(snapshot(0.0, [], [live]), refresh=refresh)

    assert policy(cost).plan(seen).relegated == frozenset()


def test_an_urgent_request_takes_the_slot_of_one_without_a_promise(cost: StepCost) -> None:
    running = [decodes("free", 5), decodes("kept", 5, tpot_s=0.5)]

    plan = policy(cost, 64, 2).plan(snapshot(0.1, running, [waits("urgent", 40, ttft_s=0.5)]))

    assert preempted(plan) == ["free"]
    assert plan.tokens == {"kept": 1, "urgent": 40}


def test_of_two_promises_the_one_with_most_slack_gives_way(cost: StepCost) -> None:
    running = [decodes("tight", 5, tpot_s=0.1), decodes("loose", 5, tpot_s=20.0)]

    plan = policy(cost, 64, 2).plan(snapshot(0.1, running, [waits("urgent", 40, ttft_s=0.5)]))

    assert preempted(plan) == ["loose"]
    assert plan.tokens == {"tight": 1, "urgent": 40}


def test_best_effort_takes_nobodys_place(cost: StepCost) -> None:
    running = [decodes("a", 5), decodes("b", 5)]

    plan = policy(cost, 64, 2).plan(snapshot(0.1, running, [waits("c", 40)]))

    assert preempted(plan) == []
    assert plan.tokens == {"a": 1, "b": 1}


def test_an_urgent_request_takes_the_blocks_of_one_without_a_promise(cost: StepCost) -> None:
    running = [decodes("free", 5, prompt=100), decodes("kept", 5, tpot_s=0.5)]

    plan = policy(cost).plan(
        snapshot(0.1, running, [waits("urgent", 40, ttft_s=0.5, max_tokens=8)], free=2)
    )

    assert preempted(plan) == ["free"]
    assert plan.tokens == {"kept": 1, "urgent": 40}


def test_nothing_starts_that_would_run_out_of_blocks_as_outputs_grow(cost: StepCost) -> None:
    # Each is expected to write 64 tokens more, 4 blocks; 8 are free and 4 of them spoken for.
    running = [decodes("a", 5, max_tokens=69)]
    fits = waits("b", 32, max_tokens=16)
    grows = waits("b", 32, max_tokens=200, hint=150)

    assert "b" in policy(cost).plan(snapshot(0.1, running, [fits], free=9)).tokens
    assert "b" not in policy(cost).plan(snapshot(0.1, running, [grows], free=9)).tokens


def test_lengths_are_learned_by_tier(cost: StepCost) -> None:
    ours = policy(cost)
    request = waits("x", tier="short").request

    for _ in range(50):
        ours.ended(request, 10, FinishReason.STOP)
        ours.ended(request, 9999, FinishReason.ABORT)

    assert ours.lengths.remaining(request, 0) < 20
    assert ours.lengths.remaining(waits("y", tier="other").request, 0) > 100


def test_a_hint_is_believed_until_it_is_exceeded(cost: StepCost) -> None:
    lengths = policy(cost).lengths
    request = waits("x", hint=40).request

    assert lengths.remaining(request, 10) == 30
    assert lengths.remaining(request, 40) > 30
