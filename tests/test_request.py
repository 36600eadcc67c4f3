"""The words of every layer: limits are named, sums add up, due times follow their rule."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hfx.request import Mix, Objective, Request, Sampling

PAIRS = st.lists(st.tuples(st.integers(1, 1000), st.integers(0, 10_000)), max_size=12)


@pytest.mark.parametrize("name", ["ttft_s", "tpot_s", "deadline_s", "weight"])
@pytest.mark.parametrize("value", [0.0, -1.0, float("nan")])
def test_a_promise_must_be_greater_than_zero(name: str, value: float) -> None:
    with pytest.raises(ValueError, match=f"{name} is {value}"):
        Objective(**{name: value})


def test_token_n_is_due_after_the_first_and_n_minus_one_gaps() -> None:
    objective = Objective(ttft_s=2.0, tpot_s=0.5)

    assert [objective.token_due_s(10.0, n) for n in (1, 2, 5)] == [12.0, 12.5, 14.0]


def test_a_deadline_bounds_every_token() -> None:
    objective = Objective(ttft_s=2.0, tpot_s=0.5, deadline_s=3.0)

    assert [objective.token_due_s(10.0, n) for n in (1, 3, 5)] == [12.0, 13.0, 13.0]
    assert Objective(deadline_s=3.0).token_due_s(10.0, 1) == 13.0


def test_nothing_promised_is_nothing_due() -> None:
    assert Objective().token_due_s(10.0, 1) is None


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("max_tokens", 0),
        ("min_tokens", 17),
        ("temperature", -0.1),
        ("temperature", float("nan")),
        ("top_p", 0.0),
        ("top_p", 1.1),
        ("top_k", -1),
        ("min_p", 1.1),
        ("presence_penalty", 2.1),
        ("frequency_penalty", -2.1),
        ("repetition_penalty", 0.0),
        ("logprobs", 21),
        ("stop", ("a", "")),
    ],
)
def test_a_sampling_value_out_of_range_is_named_with_its_value(name: str, value: object) -> None:
    with pytest.raises(ValueError) as raised:
        Sampling(**{name: value})  # type: ignore[arg-type]

    assert f"{name} is {value}: it must be" in str(raised.value)


def test_greedy_is_a_temperature_of_zero_or_one_candidate() -> None:
    assert Sampling(temperature=0.0).is_greedy
    assert Sampling(top_k=1).is_greedy
    assert not Sampling().is_greedy


def test_an_empty_prompt_is_refused() -> None:
    with pytest.raises(ValueError, match="request r has an empty prompt"):
        Request(id="r", prompt_token_ids=())


def test_a_mix_counts_decodes_and_chunks() -> None:
    mix = Mix.of([(1, 99), (1, 0), (10, 20)])

    assert (mix.decodes, mix.decode_context_tokens) == (1, 100)
    assert (mix.chunks, mix.prefill_tokens, mix.prefill_context_tokens) == (2, 11, 20)
    assert mix.attention_pairs == 1 * 0.5 + 10 * 25
    assert mix.tokens == 12


@given(PAIRS, PAIRS)
def test_mixes_add_up_and_come_apart_again(some: list[tuple[int, int]], more: list) -> None:
    assert Mix.of(some) + Mix.of(more) == Mix.of([*some, *more])
    assert Mix.of([*some, *more]) - Mix.of(more) == Mix.of(some)


@pytest.mark.parametrize("pair", [(0, 5), (1, -1)])
def test_no_query_or_a_negative_history_is_no_step(pair: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match=rf"\({pair[0]} query tokens, {pair[1]} cached\)"):
        Mix.one(*pair)
