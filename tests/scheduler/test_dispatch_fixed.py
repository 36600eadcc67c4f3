"""The rules of the dispatchers that ours is compared with, by example."""

import pytest

from hfx.request import FinishReason
from hfx.scheduler.dispatch_fixed import (
    FIRST_GUESS,
    LeastLoaded,
    PowerOfTwo,
    PrefixAffinity,
    RoundRobin,
)
from hfx.scheduler.dispatch_view import Bind

from .builders import decodes, make_request, waits
from .fleets import view_of


def test_round_robin_goes_around_in_order_of_id_whoever_joins_or_leaves() -> None:
    made = RoundRobin()
    for id in (3, 1, 2):
        made.joined(view_of(id))

    first = [made.choose(waits("r")).id for _ in range(4)]
    made.left(2)

    assert first == [1, 2, 3, 1]
    assert {made.choose(waits("r")).id for _ in range(4)} == {1, 3}


def test_least_loaded_counts_prompts_to_compute_and_outputs_to_come() -> None:
    made = LeastLoaded()
    made.joined(view_of(1, [], [waits("a", 300)]))  # 300 and an output
    made.joined(view_of(2, [decodes("b"), decodes("c"), decodes("d"), decodes("e")]))

    few = made.choose(waits("r")).id
    made.output_tokens = 50.0

    assert few == 1  # 428 against 512
    assert made.choose(waits("r")).id == 2  # 350 against 200


def test_the_mean_length_of_outputs_is_learned() -> None:
    made = LeastLoaded()

    made.ended(make_request("r"), int(FIRST_GUESS) + 100, FinishReason.STOP)

    assert made.output_tokens == pytest.approx(FIRST_GUESS + 2)


def test_power_of_two_takes_the_better_of_two_and_needs_no_second() -> None:
    alone, made = PowerOfTwo(), PowerOfTwo(seed=3)
    alone.joined(view_of(9))
    for id in range(4):
        made.joined(view_of(id, [], [waits(f"w{id}", 1000 * id + 1)]))

    chosen = [made.choose(waits("r")).id for _ in range(200)]

    assert alone.choose(waits("r")).id == 9
    assert set(chosen) == {0, 1, 2}  # never the worst of all
    assert 80 < chosen.count(0) < 120  # half of all pairs have the best


def test_a_prefix_attracts_until_its_replica_is_overloaded() -> None:
    made = PrefixAffinity()
    views = [view_of(id) for id in range(2)]
    views[1].hit_tokens = lambda request: 64
    for view in views:
        made.joined(view)

    calm = made.choose(waits("r", 100)).id
    views[1].prompt_tokens = 5000

    assert calm == 1
    assert made.choose(waits("r", 100)).id == 0


def test_what_is_bound_on_arrival_stays_bound() -> None:
    made = RoundRobin()
    made.joined(view_of(1))

    assert made.arrived(waits("r"), 0.0) == (Bind("r", 1),)
    assert not made.has_queue and made.stepped(1, 1.0) == ()


def test_without_a_replica_nothing_can_be_bound() -> None:
    with pytest.raises(ValueError, match="no replica is ready"):
        RoundRobin().arrived(waits("r"), 0.0)
