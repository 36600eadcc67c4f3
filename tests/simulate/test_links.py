"""Transfers over shared links: fair, never above a link's bandwidth, every byte once."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hfx.cost.link import Link
from hfx.simulate.links import Links, Transfer

GB = 1e9


def ends(links: Links) -> list[tuple[float, int]]:
    """When each transfer arrives, if no more begin."""
    found = []
    while links.next_s < float("inf"):
        now_s = links.next_s
        found += [(now_s, transfer.number) for transfer in links.ended(now_s)]
    return found


def test_a_transfer_alone_takes_its_bytes_at_the_links_rate_and_the_delay_once() -> None:
    links = Links(Link(10 * GB, latency_s=0.5))

    links.start(0, 1, 20 * GB, 1.0)

    assert ends(links) == [(3.5, 1)]


def test_two_from_one_source_share_its_link_and_the_one_that_is_left_gets_all_of_it() -> None:
    links = Links(Link(10 * GB))

    links.start(0, 1, 10 * GB, 0.0)
    links.start(0, 2, 20 * GB, 0.0)

    assert ends(links) == [(2.0, 1), (3.0, 2)]


def test_an_end_moves_when_another_transfer_comes_and_when_it_is_called_off() -> None:
    links = Links(Link(10 * GB))
    first = links.start(0, 2, 20 * GB, 0.0)

    assert links.next_s == 2.0
    second = links.start(1, 2, 20 * GB, 1.0)
    assert first.end_s == 3.0
    links.cancel(second, 2.0)
    assert second.left_bytes == 15 * GB
    assert ends(links) == [(2.5, 1)]


def test_what_one_cannot_use_because_its_other_end_is_slow_goes_to_the_others() -> None:
    links = Links(Link(10 * GB), {1: Link(2 * GB)})

    slow, fast = links.start(0, 1, 2 * GB, 0.0), links.start(0, 2, 8 * GB, 0.0)

    assert (slow.bytes_per_s, fast.bytes_per_s) == (2 * GB, 8 * GB)
    assert ends(links) == [(1.0, 1), (1.0, 2)]


def test_sending_and_receiving_do_not_share() -> None:
    links = Links(Link(10 * GB))

    links.start(0, 1, 10 * GB, 0.0)
    links.start(1, 0, 10 * GB, 0.0)

    assert [end_s for end_s, _ in ends(links)] == [1.0, 1.0]


def test_nothing_at_all_arrives_at_once() -> None:
    links = Links(Link(10 * GB, latency_s=0.5))

    links.start(0, 1, 0, 4.0)

    assert ends(links) == [(4.0, 1)]


def test_a_replica_sends_nothing_to_itself() -> None:
    with pytest.raises(ValueError, match="two replicas"):
        Links(Link(1.0)).start(3, 3, 10, 0.0)


moves = st.lists(
    st.tuples(
        st.integers(0, 4),
        st.integers(0, 4),
        st.floats(0.0, 50.0),
        st.floats(0.0, 3.0),
        st.booleans(),
    ),
    min_size=1,
    max_size=25,
)


def check_rates(links: Links) -> None:
    """No link carries more than it can, and no transfer could have more without another's loss."""
    flowing = links.flowing()
    load: dict[tuple[int, int], float] = {}
    for transfer in flowing:
        assert transfer.bytes_per_s > 0
        for end in transfer.ends:
            load[end] = load.get(end, 0.0) + transfer.bytes_per_s
    for (replica, _), rate in load.items():
        assert rate <= links.of(replica).bytes_per_s * (1 + 1e-9)
    for transfer in flowing:
        full = [
            end for end in transfer.ends if load[end] >= links.of(end[0]).bytes_per_s * (1 - 1e-9)
        ]
        assert any(
            transfer.bytes_per_s
            >= max(o.bytes_per_s for o in flowing if end in o.ends) * (1 - 1e-9)
            for end in full
        )


@settings(max_examples=150, deadline=None)
@given(moves)
def test_every_byte_flows_once_and_no_link_carries_more_than_it_can(
    plan: list[tuple[int, int, float, float, bool]],
) -> None:
    links = Links(Link(3.0, latency_s=0.25), {2: Link(1.0), 4: Link(8.0, latency_s=1.0)})
    flowed: dict[int, float] = {}
    arrived: set[int] = set()
    called_off: set[int] = set()
    made: list[Transfer] = []
    now_s = 0.0

    def pass_until(until_s: float) -> None:
        nonlocal now_s
        while now_s < until_s or links.next_s <= until_s:
            next_s = min(until_s, links.next_s)
            for transfer in links.flowing():
                flowed[transfer.number] += transfer.bytes_per_s * (next_s - now_s)
            now_s = next_s
            arrived.update(transfer.number for transfer in links.ended(now_s))
            check_rates(links)

    for source, target, nbytes, gap_s, call_off in plan:
        pass_until(now_s + gap_s)
        if call_off and made:
            victim = made[len(made) // 2]
            if victim.number not in arrived | called_off:
                links.cancel(victim, now_s)
                called_off.add(victim.number)
                assert flowed[victim.number] == pytest.approx(
                    victim.nbytes - victim.left_bytes, abs=1e-6
                )
        elif source != target:
            transfer = links.start(source, target, nbytes, now_s)
            made.append(transfer)
            flowed[transfer.number] = 0.0
        check_rates(links)
    pass_until(now_s + 5000.0)

    assert arrived == {transfer.number for transfer in made} - called_off
    for transfer in made:
        if transfer.number in arrived:
            assert flowed[transfer.number] == pytest.approx(transfer.nbytes, abs=1e-6)
    assert not links.flowing() and links.next_s == float("inf")
