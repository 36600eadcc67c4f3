"""A mix counts work: what no requests add up to is refused with the field's name."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hfx.request import Mix


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"decodes": -1}, "decodes is -1"),
        ({"decodes": 1, "decode_context_tokens": math.nan}, "decode_context_tokens is nan"),
        ({"decodes": 2}, "decode_context_tokens is 0"),
        ({"decode_context_tokens": 5}, "decode_context_tokens is 5"),
        ({"decodes": 2, "decode_context_tokens": 1}, "decode_context_tokens is 1"),
        ({"decode_context_squares": 4}, "decode_context_squares is 4"),
        ({"chunks": 1}, "prefill_tokens is 0"),
        ({"chunks": 1, "prefill_tokens": 5}, "attention_pairs is 0.0"),
        ({"prefill_tokens": 4, "attention_pairs": 8.0}, "attention_pairs is 8.0"),
        ({"prefill_context_tokens": 3}, "prefill_context_tokens is 3"),
        ({"chunks": 1, "prefill_tokens": 1, "attention_pairs": math.inf}, "attention_pairs is inf"),
    ],
)
def test_a_contradictory_mix_names_the_field(fields: dict, named: str) -> None:
    with pytest.raises(ValueError) as raised:
        Mix(**fields)

    assert named in str(raised.value)


def test_taking_out_what_was_never_in_is_refused() -> None:
    with pytest.raises(ValueError, match="decodes is -1"):
        Mix.of([(10, 0)]) - Mix.one(1, 5)


def test_squares_tell_one_long_context_from_many_short_ones() -> None:
    towering = Mix.of([(1, 899), (1, 49), (1, 49)])
    equal = Mix.of([(1, 332)] * 3)

    assert abs(towering.decode_context_tokens - equal.decode_context_tokens) <= 1
    assert towering.decode_context_squares == 900**2 + 2 * 50**2
    assert math.sqrt(towering.decode_context_squares) == pytest.approx(900, rel=0.01)


def test_without_squares_equal_contexts_are_assumed() -> None:
    assert Mix(decodes=4, decode_context_tokens=40) == Mix.of([(1, 9)] * 4)


@given(st.lists(st.tuples(st.integers(1, 50), st.integers(0, 10**6)), min_size=1, max_size=30))
def test_whoever_leaves_restores_the_mix_exactly(pairs: list[tuple[int, int]]) -> None:
    mix = Mix.of(pairs)

    for pair in pairs:
        mix -= Mix.one(*pair)

    assert mix == Mix()
