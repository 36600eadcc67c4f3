"""Messages: what is sent is what arrives, other versions are told apart, order is restored."""

import contextlib
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hfx.cost import Estimate
from hfx.engine.account import Account, Spent
from hfx.engine.delta import Delta, RequestTimes
from hfx.fleet import messages as m
from hfx.fleet.ends import account_of, end_of
from hfx.fleet.ordered import Ordered
from hfx.request import FinishReason, Objective, Request, Sampling
from hfx.scheduler.admission import Outlook

SECONDS = st.floats(0, 1e9)
TEXT = st.text(max_size=20)
COUNT = st.integers(0, 1 << 40)
TOKENS = st.lists(st.integers(0, 1 << 20), max_size=8).map(tuple)

SAMPLINGS = st.builds(
    Sampling,
    max_tokens=st.integers(1, 1000),
    temperature=st.floats(0, 2),
    seed=st.none() | st.integers(0, 2**63 - 1),
    stop=st.lists(st.text(min_size=1, max_size=5), max_size=3).map(tuple),
    stop_token_ids=TOKENS,
    logit_bias=st.dictionaries(st.integers(0, 1000), st.floats(-100, 100), max_size=3),
    logprobs=st.none() | st.integers(0, 20),
    ignore_eos=st.booleans(),
)
OBJECTIVES = st.builds(
    Objective,
    ttft_s=st.none() | st.floats(0.001, 100),
    tpot_s=st.none() | st.floats(0.001, 100),
    deadline_s=st.none() | st.floats(0.001, 100),
    tier=TEXT,
    on_miss=st.sampled_from(["relegate", "refuse"]),
)
REQUESTS = st.builds(
    Request,
    id=TEXT,
    prompt_token_ids=st.lists(st.integers(0, 1 << 20), min_size=1, max_size=9).map(tuple),
    sampling=SAMPLINGS,
    objective=OBJECTIVES,
    arrival_s=SECONDS,
    cache_salt=TEXT,
)
ADDS = st.builds(m.Add, COUNT, REQUESTS, TEXT, SECONDS, st.booleans(), TOKENS, st.none() | SECONDS)
NUMBERED = st.sampled_from([m.Abort, m.Unbind]).flatmap(lambda kind: st.builds(kind, COUNT))
ORDERS = st.builds(m.Orders, COUNT, COUNT, COUNT, st.lists(ADDS | NUMBERED, max_size=3).map(tuple))
SPENT = st.tuples(*[SECONDS] * 7)
ENDS = st.builds(
    m.End,
    st.sampled_from(FinishReason),
    st.none() | TEXT | st.integers(0, 1000),
    st.none() | TEXT,
    COUNT,
    SPENT,
    SPENT,
    st.none() | SECONDS,
    st.booleans(),
    st.none(),
)
EVENTS = st.builds(
    m.Event,
    COUNT,
    COUNT,
    TOKENS,
    TEXT,
    st.none() | SECONDS,
    st.none() | st.builds(m.Start, SECONDS, st.none() | SECONDS, COUNT),
    st.none() | st.just(((1, -0.5, 1, ((1, -0.5),)),)),
    st.none() | ENDS,
)
NEWS = st.builds(m.News, COUNT, COUNT, COUNT, st.lists(EVENTS, max_size=3).map(tuple))


@given(ORDERS)
def test_orders_arrive_as_they_were_sent(orders: m.Orders) -> None:
    assert m.to_replica(m.encode(orders)) == orders


@given(NEWS)
def test_news_arrives_as_it_was_sent(news: m.News) -> None:
    assert m.to_parent(m.encode(news)) == news


@given(st.binary(max_size=64))
def test_bytes_that_are_no_message_are_an_error_and_nothing_else(data: bytes) -> None:
    for read in (m.to_parent, m.to_replica):
        with contextlib.suppress(m.ProtocolError):
            read(data)


def hello(version: int) -> m.Hello:
    return m.Hello(3, version, 1, "token", 99, "host", 1.0)


def test_a_hello_of_another_version_is_a_clear_error() -> None:
    m.check_version(hello(m.VERSION))

    with pytest.raises(
        m.ProtocolError, match=rf"version {m.VERSION + 1} .* this parent {m.VERSION}"
    ):
        m.check_version(hello(m.VERSION + 1))


def test_so_is_one_whose_hello_has_other_fields() -> None:
    data = msgspec.msgpack.encode(["Hello", 3, m.VERSION + 1, {"other": "fields"}])

    with pytest.raises(m.ProtocolError, match="run the same version of hfx on every machine"):
        m.to_parent(data)


def test_an_end_keeps_the_account() -> None:
    outlook = Outlook(Estimate(1, 2), Estimate(0.1, 0.2, True), Estimate(3, 4))
    spent = Spent(1, 2, 3, 4, 5, 6, 7)
    account = Account(Objective(ttft_s=1), outlook, spent, Spent(), True, True, -0.5)
    times = RequestTimes(0, 1, 2, 3)
    delta = Delta("a", (), "", None, FinishReason.STOP, "stop", 1, 2, 0, times, 3, None, account)

    made = m.to_parent(m.encode(m.News(1, 1, 1, (m.Event(1, 2, (), "", 3.0, end=end_of(delta)),))))

    assert isinstance(made, m.News) and made.events[0].end is not None
    assert account_of(made.events[0].end, account.objective) == account


@given(st.permutations(range(1, 9)), st.lists(st.integers(1, 8), max_size=8))
def test_any_order_with_any_repetition_becomes_each_once_in_order(
    order: list[int], again: list[int]
) -> None:
    ordered: Ordered[int] = Ordered()
    got: list[int] = []

    for number in (*order, *again):
        got += ordered.take(number, number, 0.0)

    assert got == list(range(1, 9))
    assert not ordered.is_broken(1e9, 1.0)


def test_a_gap_that_stays_open_is_a_loss_and_one_that_closes_is_none() -> None:
    ordered: Ordered[Any] = Ordered()

    ordered.take(1, "a", 0.0)
    ordered.take(3, "c", 1.0)

    assert not ordered.is_broken(2.0, 1.5)
    assert ordered.is_broken(3.0, 1.5)
    assert ordered.take(2, "b", 3.0) == ["b", "c"]
    assert not ordered.is_broken(100.0, 1.5)
