"""The rules of Llumnix's and Arrow's dispatchers, by example."""

from math import inf

from hfx.cost.link import Link
from hfx.scheduler import Live
from hfx.scheduler.dispatch_arrow import ArrowLike
from hfx.scheduler.dispatch_llumnix import PERIOD_S, LlumnixLike, steps_free
from hfx.scheduler.dispatch_view import Bind, Flip, Migrate, ReplicaView

from .builders import decodes, waits
from .fleets import view_of

FAST = Link(25e9)


def streams(name: str, count: int) -> list[Live]:
    return [decodes(f"{name}{n}", output=5 + n, tpot_s=0.1) for n in range(count)]


def arrow(**running: list[Live]) -> tuple[ArrowLike, dict[str, ReplicaView]]:
    """Replicas named p... compute prompts, those named d... decode."""
    made, views = ArrowLike(), {}
    for n, (name, lives) in enumerate(running.items()):
        view = views[name] = view_of(n, lives, link=FAST)
        view.role = "prefill" if name[0] == "p" else "decode"
        made.joined(view)
    return made, views


def test_freeness_is_the_steps_that_memory_has_room_for() -> None:
    view = view_of(0, streams("a", 2), [waits("w", 1600)], blocks=1000)

    assert steps_free(view) == (994 * 16 - 1600) / 3  # two streams hold three blocks each


def test_llumnix_dispatches_to_the_freest() -> None:
    made = LlumnixLike()
    made.joined(view_of(0, streams("a", 4)))
    made.joined(view_of(1, streams("b", 3)))
    made.joined(view_of(2, streams("c", 5)))

    assert made.arrived(waits("r"), 0.0) == (Bind("r", 1),)
    assert made.wake_s == PERIOD_S


def test_llumnix_moves_the_shortest_stream_of_the_least_free_while_it_decodes() -> None:
    made = LlumnixLike()
    made.joined(view_of(0, streams("a", 9), link=FAST))
    made.joined(view_of(1, streams("b", 2), link=FAST))
    made.arrived(waits("r"), 0.0)

    assert made.woke(0.1) == [Migrate("a0", 0, 1, keeps_decoding=True)]
    assert made.wake_s == 0.1 + PERIOD_S


def test_llumnix_moves_nothing_between_replicas_that_are_about_as_free_or_cant_send() -> None:
    alike, apart = LlumnixLike(), LlumnixLike()
    for made, few, link in ((alike, 5, FAST), (apart, 1, None)):
        made.joined(view_of(0, streams("a", 6), link=link))
        made.joined(view_of(1, streams("b", few), link=link))

    assert not alike.woke(0.1)
    assert not apart.woke(0.1)


def test_llumnix_sleeps_while_there_is_nothing_to_do() -> None:
    made = LlumnixLike()
    made.joined(view_of(0))

    made.woke(5.0)

    assert made.wake_s == inf


def test_arrow_deals_half_of_the_replicas_out_to_prompts() -> None:
    made = ArrowLike()
    for id in range(4):
        made.joined(view_of(id, link=FAST))

    *flips, bound = made.arrived(waits("r"), 0.0)

    assert [flip.role for flip in flips if isinstance(flip, Flip)] == [
        "prefill",
        "decode",
        "prefill",
        "decode",
    ]
    assert bound == Bind("r", 0)


def test_arrow_sends_a_prompt_to_one_that_decodes_where_prompts_would_be_late() -> None:
    made, views = arrow(p=[], d=[], d2=streams("a", 3))
    soon, late = waits("soon", ttft_s=5.0, tpot_s=0.1), waits("late", ttft_s=0.5, tpot_s=0.1)
    views["p"].prompt_tokens = 1000  # a second

    assert made.choose(soon) is views["p"]
    assert made.choose(late) is views["d"]


def test_arrow_hands_a_prompt_that_is_done_to_the_first_that_keeps_its_pace() -> None:
    done = decodes("r", tpot_s=0.020)
    made, _ = arrow(p=[done], d=streams("a", 30), d2=streams("b", 3), d3=[])

    handed = made.stepped(0, 1.0)

    assert handed == [Migrate("r", 0, 2, keeps_decoding=False)]
    assert made.stepped(0, 1.1) == []  # once is enough


def test_arrow_turns_a_replica_where_none_keeps_the_pace_and_prompts_can_spare_it() -> None:
    done = decodes("r", tpot_s=0.020)
    made, _ = arrow(p=[done], p2=[], d=streams("a", 30))

    assert made.stepped(0, 1.0) == [Flip(0, "decode")]


def test_arrow_turns_a_replica_back_once_nothing_is_left_to_decode_and_prompts_are_late() -> None:
    made, views = arrow(p=[], d=[], d2=streams("a", 3))

    calm = made.stepped(1, 1.0)
    views["p"].waiting = [waits("r", 3000)]
    views["p"].prompt_tokens = 3000

    assert calm == ()
    assert made.stepped(1, 1.0) == (Flip(1, "prefill"),)
    assert made.stepped(2, 1.0) == ()
