"""First come, first served: exact plans on snapshots small enough to check by hand."""

import pytest

from hfx.request import Plan, Request
from hfx.scheduler import Blocks, FirstComeFirstServed, Live, Snapshot

BLOCK_TOKENS = 4


def live(id: str, cached: int, known: int, output: int = 0, shared: int = 0, idle: int = 0) -> Live:
    request = Request(id=id, prompt_token_ids=(0,) * (known - output))
    return Live(request, cached, known, output, -(-cached // BLOCK_TOKENS), shared, idle)


def snapshot(
    running: list[Live], waiting: list[Live], free: int = 100, total: int | None = None
) -> Snapshot:
    """`total` None: no running request shares a block."""
    if total is None:
        total = free + sum(live.held_blocks for live in running)
    return Snapshot(0.0, running, waiting, Blocks(total, free, BLOCK_TOKENS))


def policy(step_tokens: int = 8, running: int = 4) -> FirstComeFirstServed:
    return FirstComeFirstServed(max_step_tokens=step_tokens, max_running=running)


def preempted(plan: Plan) -> list[str]:
    return [preemption.request_id for preemption in plan.preempt]


def test_limits_that_could_not_advance_everybody_are_refused_with_their_values() -> None:
    with pytest.raises(ValueError, match="max_running is 0"):
        FirstComeFirstServed(max_running=0)
    with pytest.raises(ValueError, match=r"max_step_tokens is 3: .*max_running \(4\)"):
        policy(step_tokens=3, running=4)


def test_decodes_and_a_chunk_share_a_step() -> None:
    running = [live("long", 8, 40), live("a", 5, 6, output=2), live("b", 7, 8, output=3)]

    plan = policy().plan(snapshot(running, []))

    assert plan.tokens == {"a": 1, "b": 1, "long": 6}


def test_waiting_requests_start_in_arrival_order_while_the_budget_lasts() -> None:
    waiting = [live("a", 0, 5), live("b", 0, 9), live("c", 0, 1)]

    plan = policy().plan(snapshot([], waiting))

    assert plan.tokens == {"a": 5, "b": 3}


def test_no_more_requests_run_than_allowed() -> None:
    waiting = [live(str(i), 0, 1) for i in range(6)]

    plan = policy(running=4).plan(snapshot([live("r", 3, 4, output=1)], waiting))

    assert list(plan.tokens) == ["r", "0", "1", "2"]


def test_nobody_overtakes_a_request_that_does_not_fit_yet() -> None:
    waiting = [live("big", 0, 20), live("small", 0, 1)]

    plan = policy().plan(snapshot([live("r", 3, 4, output=1)], waiting, free=4))

    assert plan.tokens == {"r": 1}


def test_a_prompt_starts_only_when_all_of_it_fits_beside_what_running_prompts_still_need() -> None:
    running = [live("first", 8, 24)]  # needs 4 more blocks, 2 of them now
    waiting = [live("second", 0, 4)]

    assert policy(16).plan(snapshot(running, waiting, free=4)).tokens == {"first": 16}
    assert policy(16).plan(snapshot(running, waiting, free=5)).tokens == {"first": 16}
    assert policy(20).plan(snapshot(running, waiting, free=5)).tokens == {
        "first": 16,
        "second": 4,
    }
    assert policy(8, 2).plan(snapshot([live("x", 7, 8, 1), *running], [], free=1)).tokens


def test_a_prefix_hit_is_neither_computed_nor_paid_for_again() -> None:
    shared = live("shared", 8, 12)  # 2 blocks held by a running request
    idle = live("idle", 8, 12, idle=2)  # 2 blocks that count as free now

    assert policy().plan(snapshot([], [shared], free=1)).tokens == {"shared": 4}
    assert policy().plan(snapshot([], [idle], free=2)).tokens == {}
    assert policy().plan(snapshot([], [idle], free=3)).tokens == {"idle": 4}


def test_without_blocks_the_last_arrival_gives_way() -> None:
    running = [live("old", 4, 5, 2), live("young", 4, 5, 2)]

    plan = policy().plan(snapshot(running, [], free=0))

    assert preempted(plan) == ["young"]
    assert plan.tokens == {"old": 1}


def test_a_victim_that_was_already_planned_returns_its_blocks_and_tokens() -> None:
    running = [live("chunk", 4, 20), live("decode", 4, 5, 2)]  # the decode is planned first

    plan = policy(8).plan(snapshot(running, [], free=1))

    assert preempted(plan) == ["decode"]
    assert plan.tokens == {"chunk": 7}  # 2 blocks: the one free and the one given back


def test_tokens_of_a_victim_go_to_those_that_are_planned_after_it() -> None:
    running = [live("short", 4, 7), live("long", 4, 20), live("decode", 12, 13, 2)]

    plan = policy(8).plan(snapshot(running, [], free=1))

    assert preempted(plan) == ["decode"]
    assert plan.tokens == {"short": 3, "long": 5}


def test_a_request_that_arrived_last_pauses_rather_than_lose_its_blocks_or_an_older_ones() -> None:
    running = [live("old", 5, 6, 2), live("young", 4, 5, 2)]

    plan = policy().plan(snapshot(running, [live("w", 0, 1)], free=0))

    assert preempted(plan) == []
    assert plan.tokens == {"old": 1}


def test_a_chunk_that_arrived_last_makes_do_with_the_blocks_that_are_free() -> None:
    running = [live("old", 5, 6, 2), live("young", 6, 26)]

    plan = policy(16).plan(snapshot(running, [], free=2))

    assert preempted(plan) == []
    assert plan.tokens == {"old": 1, "young": 10}  # 2 in its last block, 8 in the free ones


def test_nothing_starts_in_a_step_that_preempts() -> None:
    running = [live("old", 4, 5, 2), live("young", 40, 41, 2)]

    plan = policy().plan(snapshot(running, [live("w", 0, 1)], free=0))

    assert plan.tokens == {"old": 1}


def test_blocks_shared_with_a_survivor_are_not_counted_as_freed() -> None:
    # All three share 2 blocks, old and b a third one; the fourth is c's own.
    running = [live("old", 12, 13, 2, shared=3), live("b", 12, 13, 2, shared=3)]
    running.append(live("c", 12, 13, 2, shared=2))

    plan = policy().plan(snapshot(running, [], free=0, total=4))

    assert preempted(plan) == ["c"]
    assert plan.tokens == {"old": 1}  # c's own block was enough for one of them only


def test_the_oldest_request_advances_even_if_all_others_share_what_they_hold() -> None:
    # b and c hold the same 3 blocks: each alone frees none, both together free all of them.
    running = [live("old", 4, 5, 2)]
    running += [live("b", 12, 13, 2, shared=3), live("c", 12, 13, 2, shared=3)]

    plan = policy().plan(snapshot(running, [], free=0, total=4))

    assert preempted(plan) == ["c", "b"]
    assert plan.tokens == {"old": 1}
