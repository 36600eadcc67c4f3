from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from hfx.bench.sse import Event, EventParser

STREAM = (
    'data: {"text": "né"}\n\n'
    ": keep-alive\n\n"
    "event: error\r\ndata: first\r\ndata: second\r\n\r\n"
    "id: 7\rretry: 10\rdata:  two spaces\r\r"
    "data\n\n"
    "data: [DONE]\n\n"
    "data: never finished"
).encode()
EVENTS = [
    Event('{"text": "né"}'),
    Event("first\nsecond", "error"),
    Event(" two spaces"),
    Event(""),
    Event("[DONE]"),
]


def events_of(chunks: list[bytes]) -> list[Event]:
    parser = EventParser()
    return [event for chunk in chunks for event in parser.feed(chunk)]


def test_one_chunk_gives_all_its_events_and_drops_the_unfinished_one():
    assert events_of([STREAM]) == EVENTS


def test_single_bytes_give_the_same_events():
    assert events_of([STREAM[i : i + 1] for i in range(len(STREAM))]) == EVENTS


@given(st.sets(st.integers(1, len(STREAM) - 1)))
def test_any_chunking_gives_the_same_events(cuts):
    edges = [0, *sorted(cuts), len(STREAM)]

    chunks = [STREAM[a:b] for a, b in pairwise(edges)]

    assert events_of(chunks) == EVENTS


@given(
    st.lists(
        st.text(st.characters(exclude_characters="\r\n", exclude_categories=["Cs"])), min_size=1
    ),
    st.sampled_from(["\n", "\r\n", "\r"]),
    st.integers(1, 7),
)
def test_data_of_any_characters_survives_any_line_end_and_chunk_size(texts, newline, size):
    raw = "".join(f"data: {text}{newline}{newline}" for text in texts).encode()

    chunks = [raw[i : i + size] for i in range(0, len(raw), size)]

    assert [event.data for event in events_of(chunks)] == texts


def test_an_event_is_out_as_soon_as_its_blank_line_is_even_if_that_ends_with_a_bare_return():
    parser = EventParser()

    assert parser.feed(b"data: a\r\n\r") == [Event("a")]
    assert parser.feed(b"\ndata: b\r\n\r\n") == [Event("b")]
