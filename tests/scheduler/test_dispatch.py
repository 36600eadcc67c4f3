"""What the dispatcher of many promises decides, each rule by an example that can be checked.

A step costs 10 ms and 1 ms for each decode and prompt token.
"""

from math import inf

import pytest

from hfx.cost.link import Link
from hfx.request import FinishReason, Refused
from hfx.scheduler.dispatch import LOOKED_AT, SAMPLED, SlackDispatcher
from hfx.scheduler.dispatch_fit import Fit, Speed
from hfx.scheduler.dispatch_roles import Roles
from hfx.scheduler.dispatch_view import (
    Bind,
    Decision,
    Migrate,
    Refuse,
    Relegate,
    ReplicaView,
    Unbind,
)

from .builders import decodes, priced, waits
from .fleets import Toy, view_of


def busy(id: int, tokens: int = 5000) -> ReplicaView:
    """A replica whose present step ends at 1 and that has that much of a prompt left."""
    return view_of(id, [], [waits(f"bound{id}", tokens)], boundary_s=1.0)


def dispatcher(*views: ReplicaView, early: bool = False) -> SlackDispatcher:
    made = SlackDispatcher(binds_early=early)
    for view in views:
        made.joined(view)
    return made


def test_one_replica_gets_everything_at_once() -> None:
    made = dispatcher(busy(7))

    for n in range(50):
        assert made.arrived(waits(f"{n}", 100, ttft_s=1.0), 0.0) == (Bind(f"{n}", 7),)
    assert not made.has_queue


def test_a_request_that_nobody_can_begin_waits_for_whoever_has_time_first() -> None:
    one, two = busy(1), busy(2)
    made = dispatcher(one, two)

    assert made.arrived(waits("r", 100, ttft_s=9.0), 0.0) == ()
    assert made.has_queue
    two.waiting, two.prompt_tokens = [], 0

    assert made.stepped(2, 1.0) == [Bind("r", 2)]
    assert not made.has_queue and made.stepped(1, 1.0) == []


def test_an_idle_replica_begins_at_once_the_one_whose_streams_leave_most_time() -> None:
    tight = view_of(1, [decodes("t", tpot_s=0.02)])
    loose = view_of(2, [decodes("l", tpot_s=0.5)])

    assert dispatcher(tight, loose).arrived(waits("r", 50, ttft_s=1.0), 0.0) == (Bind("r", 2),)


def test_earliest_due_first_whoever_came_first() -> None:
    made = dispatcher(busy(1), idle := busy(2))
    for id, ttft_s in (("late", 9.0), ("soon", 6.0), ("never", None)):
        made.arrived(waits(id, 1500, ttft_s=ttft_s), 0.0)
    idle.waiting, idle.prompt_tokens = [], 0

    bound = [d.request_id for d in made.stepped(2, 1.0) if isinstance(d, Bind)]

    assert bound == ["soon", "late"]  # a step of 2,048 tokens is filled; what has no promise waits


def test_a_replica_gets_no_more_than_its_next_step_can_hold() -> None:
    made = dispatcher(busy(1), idle := busy(2))
    for n in range(10):
        made.arrived(waits(f"{n}", 1000, ttft_s=60.0), 0.0)
    idle.waiting, idle.prompt_tokens = [], 0

    assert len(made.stepped(2, 1.0)) == 3


def test_a_promise_that_nobody_can_keep_is_relegated_on_arrival() -> None:
    made = dispatcher(busy(1), busy(2))

    assert made.arrived(waits("r", 2000, ttft_s=0.5), 0.0) == (Relegate("r"),)
    assert made.has_queue


def test_one_that_may_not_be_relegated_keeps_its_place() -> None:
    made = dispatcher(busy(1), idle := busy(2))
    made.arrived(waits("kept", 2000, ttft_s=0.5, may_relegate=False), 0.0)
    idle.waiting, idle.prompt_tokens = [], 0

    assert made.stepped(2, 1.0) == [Bind("kept", 2)]


def test_where_not_all_can_be_in_time_the_largest_gives_way() -> None:
    made = dispatcher(busy(1), idle := view_of(2, boundary_s=1.0))
    made.arrived(waits("large", 1500, ttft_s=3.0), 0.0)
    for n in range(5):
        made.arrived(waits(f"small{n}", 500, ttft_s=3.1), 0.0)

    bound = [d.request_id for d in made.stepped(idle.id, 1.0) if isinstance(d, Bind)]

    # Until 3.1 two replicas have 3.7 s for prompts, and not 4.
    assert bound[:3] == ["small0", "small1", "small2"]


def test_weight_decides_who_gives_way() -> None:
    made = dispatcher(busy(1), idle := view_of(2, boundary_s=1.0))
    made.arrived(waits("large", 1500, ttft_s=3.0, weight=9.0), 0.0)
    for n in range(5):
        made.arrived(waits(f"small{n}", 500, ttft_s=3.1), 0.0)

    bound = [d.request_id for d in made.stepped(idle.id, 1.0) if isinstance(d, Bind)]

    assert bound[0] == "large"


def test_a_prompt_that_would_break_a_bound_promise_goes_where_it_does_not() -> None:
    strict = view_of(1, [], [waits("bound", 400, ttft_s=1.75)], boundary_s=1.0)
    free = view_of(2, boundary_s=1.0)
    made = dispatcher(strict, free)
    made.arrived(waits("r", 400, ttft_s=1.7), 0.0)

    assert made.stepped(1, 1.0) == []
    assert made.stepped(2, 1.0) == [Bind("r", 2)]


def test_a_cached_prefix_decides_between_replicas_that_have_time() -> None:
    cold, warm = view_of(1), view_of(2)
    warm.hit_tokens = lambda request: 480

    assert dispatcher(cold, warm).arrived(waits("r", 500, ttft_s=1.0), 0.0) == (Bind("r", 2),)


def test_replicas_are_compared_by_their_own_prices() -> None:
    slow = view_of(1, cost=priced(fixed_s=0.02, each_s=0.002))
    fast = view_of(2, cost=priced())
    made = dispatcher(slow, fast)

    assert made.arrived(waits("r", 500, ttft_s=1.0), 0.0) == (Bind("r", 2),)


def test_who_has_no_room_gets_nothing_unless_nobody_is_there() -> None:
    full = view_of(1, [decodes("d", prompt=1000)], blocks=70)
    empty = view_of(2, blocks=1)

    assert dispatcher(full, empty).arrived(waits("r", 500, ttft_s=9.0), 0.0) == (Bind("r", 2),)


def test_bound_work_is_taken_back_by_who_has_nothing_to_do() -> None:
    behind = view_of(1, [waits("a", 4000)], [waits("b", 4000)], boundary_s=1.0)
    made = dispatcher(behind, view_of(2))

    assert made.stepped(2, 0.5) == [Unbind("b", 1), Bind("b", 2)]


def test_what_has_output_already_is_not_taken_back() -> None:
    live = waits("b", 4000)
    live.output_tokens = 3
    made = dispatcher(view_of(1, [waits("a", 4000)], [live]), view_of(2))

    assert made.stepped(2, 0.5) == []


def test_spare_work_waits_while_promises_do_and_comes_after_them() -> None:
    made = dispatcher(busy(1), idle := busy(2))
    made.arrived(waits("spare", 100), 0.0)
    made.arrived(waits("promised", 3000, ttft_s=9.0), 0.0)
    idle.waiting, idle.prompt_tokens = [], 0

    assert made.stepped(2, 1.0) == [Bind("promised", 2)]
    idle.waiting, idle.prompt_tokens = [], 0
    assert made.stepped(2, 5.0) == [Bind("spare", 2)]


def test_promises_owe_spare_work_a_share() -> None:
    made = dispatcher(busy(1), idle := busy(2))
    made.arrived(waits("spare", 100), 0.0)
    bound: list[Decision] = []
    for n in range(12):
        for m in range(2):  # one more always waits
            made.arrived(waits(f"{n}.{m}", 1500, ttft_s=500.0), float(n))
        idle.waiting, idle.prompt_tokens = [], 0
        bound += made.stepped(2, float(n) + 1)

    assert Bind("spare", 2) in bound  # 100 tokens: a twentieth of what two promises take


def test_a_request_that_ends_in_the_queue_is_forgotten() -> None:
    made = dispatcher(busy(1), idle := busy(2))
    live = waits("r", 100, ttft_s=9.0)
    made.arrived(live, 0.0)
    made.ended(live.request, 0, FinishReason.ABORT)
    idle.waiting, idle.prompt_tokens = [], 0

    assert not made.has_queue and made.stepped(2, 1.0) == []


def test_without_replicas_a_request_waits_for_the_first() -> None:
    made = SlackDispatcher()
    assert made.arrived(waits("r", 100, ttft_s=9.0), 0.0) == ()

    made.joined(view_of(4))

    assert made.stepped(4, 1.0) == [Bind("r", 4)]


def test_who_binds_early_fills_the_next_step_while_the_present_one_runs() -> None:
    views = view_of(1, boundary_s=0.5), view_of(2, boundary_s=0.9)

    assert dispatcher(*views).arrived(waits("r", 100, ttft_s=2.0), 0.0) == ()
    made = dispatcher(*views, early=True)
    assert made.arrived(waits("r", 100, ttft_s=2.0), 0.0) == (Bind("r", 1),)


# Refusals


def refused(decisions: object) -> Refused:
    assert isinstance(decisions, tuple)
    (decision,) = decisions
    assert isinstance(decision, Refuse)
    return decision.answer


def test_a_promise_beyond_every_replica_is_refused_for_ever_with_the_best_there_is() -> None:
    made = dispatcher(view_of(1), view_of(2, cost=priced(each_s=0.002)))

    answer = refused(made.arrived(waits("r", 1000, ttft_s=0.5, on_miss="refuse"), 0.0))

    assert answer.retry_after_s == inf
    assert answer.feasible["ttft_s"] == pytest.approx(1.1, abs=0.1)
    assert "ttft_s of 0.5 s is beyond every replica: 1.01 s" in answer.reason


def test_a_refusal_says_when_it_could_be_kept() -> None:
    made = dispatcher(busy(1), busy(2))

    answer = refused(made.arrived(waits("r", 500, ttft_s=1.2, on_miss="refuse"), 0.0))

    # What is bound has no promise and waits: begun at 1, done at 1.5 and a bit.
    assert answer.feasible["ttft_s"] == pytest.approx(1.57, abs=0.05)
    assert answer.retry_after_s == pytest.approx(answer.feasible["ttft_s"] - 1.2)


def test_a_promise_that_can_be_kept_is_not_refused() -> None:
    made = dispatcher(view_of(1), view_of(2))

    assert made.arrived(waits("r", 500, ttft_s=1.2, on_miss="refuse"), 0.0) == (Bind("r", 1),)


# Roles


def with_roles(*paces: float, moves: bool = True) -> SlackDispatcher:
    link = Link(bytes_per_s=1e9) if moves else None
    made = dispatcher(*(view_of(n, link=link) for n in range(len(paces))))
    made.chooser.roles = Roles(paces)
    return made


def test_prompts_go_to_who_computes_nothing_else() -> None:
    made = with_roles(0.03, 0.1, inf)

    assert made.arrived(waits("r", 100, ttft_s=2.0, tpot_s=0.05), 0.0) == (Bind("r", 2),)


def test_a_prompt_that_is_done_is_handed_to_who_hosts_its_pace() -> None:
    made = with_roles(0.03, 0.1, inf)
    view = made._replicas[2]
    view.running = [decodes("tight", tpot_s=0.05), decodes("loose", tpot_s=0.2)]

    assert made.stepped(2, 1.0) == [
        Migrate("tight", 2, 0, keeps_decoding=False),
        Migrate("loose", 2, 1, keeps_decoding=False),
    ]
    assert made.stepped(2, 1.1) == []  # they are on their way


def test_a_tight_stream_among_loose_ones_moves_while_it_decodes() -> None:
    made = with_roles(0.03, 0.1, inf)
    made._replicas[1].running = [decodes("tight", 9, tpot_s=0.05), decodes("loose", 9, tpot_s=0.2)]

    assert made.stepped(1, 1.0) == [Migrate("tight", 1, 0, keeps_decoding=True)]


def test_a_stream_that_could_not_be_moved_is_sent_again() -> None:
    made = with_roles(0.03, 0.1, inf)
    made._replicas[2].running = [decodes("s", tpot_s=0.05)]
    assert made.stepped(2, 1.0)

    assert made.stepped(2, 9.0) == [Migrate("s", 2, 0, keeps_decoding=False)]


def test_where_nothing_can_move_a_tight_prompt_keeps_away_from_loose_streams() -> None:
    made = with_roles(0.03, 0.1, moves=False)
    made._replicas[0].boundary_s = 5.0

    assert made.arrived(waits("r", 100, ttft_s=9.0, tpot_s=0.03), 0.0) == ()
    assert made.stepped(1, 1.0) == []
    assert made.stepped(1, 8.7) == [Bind("r", 1)]  # unless it would be too late otherwise


def test_who_hosts_streams_leaves_prompts_to_who_does_not() -> None:
    made = with_roles(0.03, inf)
    made._replicas[1].boundary_s = 5.0
    made.arrived(waits("r", 100, ttft_s=9.0, tpot_s=0.03), 0.0)
    made.queue.add(made._waiting(waits("q", 100, ttft_s=9.0, tpot_s=0.03), 0.0))

    assert [type(d) for d in made.stepped(0, 1.0)] == []
    assert made.stepped(1, 1.0)


# How much it looks at


def test_a_decision_looks_at_a_few_replicas_however_many_there_are() -> None:
    looked: list[float] = []
    made = SlackDispatcher()
    for n in range(1000):
        view = busy(n)
        view.advance = looked.append
        made.joined(view)
    for n in range(300):
        made.arrived(waits(f"{n}", 100, ttft_s=900.0), 0.0)
    most = len(looked)

    looked.clear()
    made.stepped(17, 1.0)

    assert most <= 300 * SAMPLED
    assert len(looked) <= SAMPLED + 1


def test_a_long_queue_is_looked_at_from_its_front() -> None:
    made = dispatcher(busy(1), idle := busy(2))
    for n in range(LOOKED_AT + 50):
        made.arrived(waits(f"big{n}", 160_000, ttft_s=9e5), 0.0)  # no room for these
    made.arrived(waits("small", 10, ttft_s=9.5e5), 0.0)
    idle.waiting, idle.prompt_tokens = [], 0
    idle.running = [decodes("d")]
    idle.free_blocks = 100

    assert made.stepped(2, 1.0) == []


def test_laxity_counts_what_is_due_before_and_what_would_be_late_after() -> None:
    view = view_of(1, [], [waits("a", 100, ttft_s=1.0), waits("b", 100, ttft_s=0.3)])
    fit = Fit.of(view, Speed.of(view), 0.0)

    own_s = fit.laxity_s(0.6, 0.2, inf)
    others_s = fit.laxity_s(0.6, 0.75, inf)

    assert own_s == pytest.approx(0.6 - 0.01 - 0.3 / 0.9, abs=0.02)  # behind b, before a
    assert others_s < 0


def test_the_same_events_give_the_same_decisions() -> None:
    def play() -> list[Decision]:
        toy = Toy(SlackDispatcher())
        for n in range(3):
            toy.join(view_of(n))
        for n in range(60):
            toy.arrive(waits(f"{n}", 50 + 37 * n % 900, n / 10, ttft_s=1.5, tpot_s=0.1), n / 10)
            toy.step(n % 3, n / 10 + 0.05)
        return toy.log

    assert play() == play()


def test_an_idle_replica_that_would_be_late_leaves_it_to_one_that_is_not() -> None:
    slow = view_of(1, cost=priced(fixed_s=0.01, each_s=0.004))
    soon = view_of(2, cost=priced(fixed_s=0.011), boundary_s=0.1)
    made = dispatcher(slow, soon)

    assert made.arrived(waits("r", 400, ttft_s=0.9), 0.0) == ()
    assert made.stepped(2, 0.1) == [Bind("r", 2)]
