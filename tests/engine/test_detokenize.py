"""Text as it streams: whole characters only, nothing of a stop string, nothing lost."""

from collections.abc import Sequence
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer as Pipeline
from tokenizers import decoders, models, pre_tokenizers

from hfx.engine.detokenize import REPLACEMENT, CharacterStream, StopFilter, TextStream
from hfx.models.tokenizer import BYTE_OF_LETTER
from hfx.request import Sampling

EMOJI = "naïve 👩‍👩‍👧 日本語 🇩🇪 e\u0301 ok"


def byte_level() -> Pipeline:
    """One token for each byte and some words, spelled as GPT-2 does."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    words = ["Ġthe", "Ġcat", "Ċ", "ing", "Ã©", "ðŁĺ"]  # the last: three bytes of an emoji
    vocabulary = {
        token: i for i, token in enumerate([*alphabet, *(w for w in words if len(w) > 1)])
    }
    pipeline = Pipeline(models.WordLevel(vocabulary, unk_token="Ċ"))
    pipeline.decoder = decoders.ByteLevel()
    pipeline.add_special_tokens(["<|end|>"])
    return pipeline


def byte_fallback() -> Pipeline:
    """Words with a space mark, and a token for each byte, as Llama 2 and Mistral have."""
    tokens = ["<unk>", *(f"<0x{byte:02X}>" for byte in range(256)), "▁the", "▁cat", "s", "▁", "é"]
    pipeline = Pipeline(models.WordLevel({t: i for i, t in enumerate(tokens)}, unk_token="<unk>"))
    pipeline.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    return pipeline


BYTE_LEVEL = byte_level()
BYTE_FALLBACK = byte_fallback()


def streamed(pipeline: Pipeline, ids: Sequence[int], prompt: Sequence[int] = ()) -> list[str]:
    stream = CharacterStream(lambda some: pipeline.decode(list(some)), prompt)
    return [*(stream.push(token) for token in ids), stream.flush()]


def bytes_of(text: str) -> list[int]:
    """Token ids that spell a text byte by byte."""
    letters = {byte: letter for letter, byte in BYTE_OF_LETTER.items()}
    return [BYTE_LEVEL.token_to_id(letters[byte]) for byte in text.encode()]


def test_a_character_appears_when_its_last_byte_has_come() -> None:
    assert streamed(BYTE_LEVEL, bytes_of("a€b")) == ["a", "", "", "€", "b", ""]


def test_no_delta_of_proper_text_holds_a_half_character() -> None:
    deltas = streamed(BYTE_LEVEL, bytes_of(EMOJI))

    assert "".join(deltas) == EMOJI
    assert not any(REPLACEMENT in delta for delta in deltas)


def test_what_is_never_completed_is_shown_at_the_end() -> None:
    assert streamed(BYTE_LEVEL, bytes_of("a€")[:-1]) == ["a", "", "", REPLACEMENT]


@settings(max_examples=300, deadline=None)
@given(st.lists(st.integers(0, BYTE_LEVEL.get_vocab_size() - 1), max_size=60))
def test_the_deltas_of_any_byte_level_tokens_join_to_their_text(ids: list[int]) -> None:
    assert "".join(streamed(BYTE_LEVEL, ids)) == BYTE_LEVEL.decode(ids)


@settings(max_examples=300, deadline=None)
@given(
    st.lists(
        st.sampled_from(["▁the", "▁cat", "s", "▁", "é"])
        | st.text(min_size=1, max_size=2).filter(lambda text: REPLACEMENT not in text),
        max_size=30,
    )
)
def test_the_deltas_of_text_with_byte_fallback_join_to_it(parts: list[str]) -> None:
    ids: list[int] = []
    for part in parts:
        whole = BYTE_FALLBACK.token_to_id(part)
        ids += [whole] if whole is not None else [1 + byte for byte in part.encode()]

    assert "".join(streamed(BYTE_FALLBACK, ids)) == BYTE_FALLBACK.decode(ids)


def test_a_word_behind_the_prompt_keeps_its_space() -> None:
    the, cat = (BYTE_FALLBACK.token_to_id(token) for token in ("▁the", "▁cat"))

    assert streamed(BYTE_FALLBACK, [cat], prompt=[the]) == [" cat", ""]
    assert streamed(BYTE_FALLBACK, [cat]) == ["cat", ""]


def test_a_prompt_that_ends_inside_a_character_hides_nothing_of_the_output() -> None:
    half = bytes_of("€")[:1]

    assert "".join(streamed(BYTE_LEVEL, bytes_of("abc"), prompt=half)) == "abc"


def test_a_long_run_of_garbage_is_shown_before_its_end_and_costs_no_more_than_text() -> None:
    lengths: list[int] = []

    def decode(ids: Sequence[int]) -> str:
        lengths.append(len(ids))
        return BYTE_LEVEL.decode(list(ids))

    stream = CharacterStream(decode)
    garbage = bytes_of("€")[1:2] * 200
    shown = "".join(stream.push(token) for token in garbage)

    assert len(shown) > 150
    assert shown + stream.flush() == REPLACEMENT * 200
    assert max(lengths) < 40


def test_a_long_run_of_skipped_tokens_costs_no_more_than_text() -> None:
    lengths: list[int] = []

    def decode(ids: Sequence[int]) -> str:
        lengths.append(len(ids))
        return BYTE_LEVEL.decode(list(ids))

    stream = CharacterStream(decode, bytes_of("ab"))
    end = BYTE_LEVEL.token_to_id("<|end|>")
    shown = "".join(stream.push(token) for token in [end] * 200 + bytes_of("c"))

    assert shown == "c"
    assert max(lengths) < 10


@pytest.mark.parametrize(
    ("stops", "pieces", "shown", "by"),
    [
        (["END"], ["abEN", "Dcd"], "ab", "END"),
        (["END"], ["abE", "x"], "abEx", None),
        (["aab"], ["a", "a", "a", "b"], "a", "aab"),
        (["cd", "bcde"], ["ab", "c", "d", "e"], "ab", "cd"),
        (["cd", "bcde"], ["abcde"], "ab", "cd"),
        (["b", "ab"], ["xab"], "x", "ab"),
        (["\n\n"], ["a\n", "\nb"], "a", "\n\n"),
    ],
)
def test_the_stop_string_that_is_complete_first_ends_the_text(
    stops: list[str], pieces: list[str], shown: str, by: str | None
) -> None:
    stop = StopFilter(stops)

    text = "".join(stop.push(piece) for piece in pieces) + stop.flush()

    assert (text, stop.stopped_by) == (shown, by)


def test_a_stop_string_can_be_included() -> None:
    stop = StopFilter(["END"], include=True)

    assert [stop.push("abE"), stop.push("ND c"), stop.push("d"), stop.flush()] == [
        "ab",
        "END",
        "",
        "",
    ]


@settings(max_examples=300, deadline=None)
@given(
    st.text("ab", max_size=20),
    st.lists(st.text("ab", min_size=1, max_size=4), min_size=1, max_size=3),
    st.lists(st.integers(0, 20), max_size=5),
)
def test_the_outcome_does_not_depend_on_how_the_text_is_cut(
    text: str, stops: list[str], cuts: list[int]
) -> None:
    edges = [0, *sorted(min(cut, len(text)) for cut in cuts), len(text)]
    pieces = [text[a:b] for a, b in pairwise(edges)]
    whole, cut = StopFilter(stops), StopFilter(stops)

    at_once = whole.push(text) + whole.flush()
    shown = ""
    for piece in pieces:
        shown += cut.push(piece)
        assert at_once.startswith(shown)  # nothing is shown that has to be taken back

    assert (shown + cut.flush(), cut.stopped_by) == (at_once, whole.stopped_by)
    assert not any(stop in at_once for stop in stops)


def test_stop_strings_count_from_min_tokens_on() -> None:
    stream = TextStream(
        lambda ids, skip: "".join(chr(97 + i) for i in ids),
        Sampling(stop=("ab",), min_tokens=2, max_tokens=9),
    )

    shown = [stream.push(token, number) for number, token in enumerate([0, 1, 0, 1], start=1)]

    assert shown == ["a", "b", "", ""] and stream.stopped_by == "ab"
