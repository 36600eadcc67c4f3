"""Whatever happens, each request is at one place that is there, and none is forgotten."""

from hypothesis import given, settings
from hypothesis import strategies as st

from hfx.request import FinishReason
from hfx.scheduler.dispatch import SlackDispatcher
from hfx.scheduler.dispatch_names import DISPATCHERS, build_dispatcher

from .builders import waits
from .fleets import Toy, view_of

MOST_REPLICAS = 5

promises = st.fixed_dictionaries(
    {},
    optional={
        "ttft_s": st.sampled_from([0.05, 0.4, 3.0, 50.0]),
        "tpot_s": st.sampled_from([0.02, 0.1, 0.5]),
        "weight": st.sampled_from([0.5, 1.0, 4.0]),
        "on_miss": st.sampled_from(["relegate", "refuse"]),
        "may_relegate": st.booleans(),
    },
)
events = st.lists(
    st.one_of(
        st.tuples(st.just("arrive"), st.integers(1, 3000), promises),
        st.tuples(st.just("step"), st.integers(0, MOST_REPLICAS - 1)),
        st.tuples(st.just("abort"), st.integers(0, 50)),
        st.tuples(st.just("leave"), st.integers(0, MOST_REPLICAS - 1)),
        st.tuples(st.just("join"), st.integers(0, MOST_REPLICAS - 1)),
        st.tuples(st.just("wake")),
    ),
    max_size=60,
)


def play(name: str, story: list[tuple[object, ...]]) -> Toy:
    """Carry a story out; afterwards replicas have time, until nobody waits."""
    toy, now_s, made = Toy(build_dispatcher(name)), 0.0, 0
    toy.join(view_of(0, blocks=400))
    for event in story:
        now_s += 0.03
        match event:
            case ("arrive", int(tokens), dict(promise)) if toy.views:
                toy.arrive(waits(f"{made}", tokens, now_s, **promise), now_s)
                made += 1
            case ("step", int(id)) if id in toy.views:
                toy.step(id, now_s)
            case ("abort", int(n)) if toy.queued:
                toy.end(sorted(toy.queued)[n % len(toy.queued)], FinishReason.ABORT)
            case ("leave", int(id)) if id in toy.views and len(toy.views) > 1:
                toy.leave(id, now_s)
            case ("join", int(id)) if id not in toy.views:
                toy.join(view_of(id, blocks=400))
            case ("wake",) if toy.dispatcher.wake_s <= now_s:
                toy.carry_out(toy.dispatcher.woke(now_s))
                assert toy.dispatcher.wake_s > now_s
    for _ in range(3 * made + 3):  # where streams leave no time, prompts wait for the next round
        for id in list(toy.views):
            now_s += 0.5
            toy.step(id, now_s)
    assert toy.gone == {f"{n}" for n in range(made)}
    return toy


@settings(max_examples=150, deadline=None)
@given(events)
def test_every_request_is_bound_once_at_a_time_and_served_or_refused(
    story: list[tuple[object, ...]],
) -> None:
    toy = play("hfx", story)

    assert not toy.dispatcher.has_queue
    assert not toy.queued and not toy.bound


@settings(max_examples=25, deadline=None)
@given(st.sampled_from(sorted(DISPATCHERS)), events)
def test_so_it_is_with_every_dispatcher_and_twice_alike(
    name: str, story: list[tuple[object, ...]]
) -> None:
    assert play(name, story).log == play(name, story).log


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(1, 2000), promises), min_size=1, max_size=12))
def test_a_replica_with_nothing_to_do_gets_something_where_anything_waits(
    requests: list[tuple[int, dict[str, object]]],
) -> None:
    toy = Toy(SlackDispatcher())
    for id in range(2):
        toy.join(view_of(id, [], [], boundary_s=0.1))
    for n, (tokens, promise) in enumerate(requests):
        toy.arrive(waits(f"{n}", tokens, **promise), 0.0)
    waiting = len(toy.queued)

    toy.step(0, 0.1)

    assert not waiting or len(toy.queued) < waiting
