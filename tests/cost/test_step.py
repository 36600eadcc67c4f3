"""Step prices: by hand, monotone, never below decodes alone, and inverted exactly."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hfx.cost import MOST_TOKENS, Link, Mix, Piece, Regime, StepCost

Models = st.SearchStrategy[StepCost]
Mixes = st.SearchStrategy[Mix]


def test_both_regimes_by_hand(toy: StepCost) -> None:
    decodes = Mix.of([(1, 99), (1, 199)])
    chunk = Mix.one(10, 5)

    assert toy.step_s(decodes).mean_s == pytest.approx(0.010 + 300e-6)
    assert toy.step_s(decodes).upper_s == pytest.approx((0.010 + 300e-6) * 1.1)
    assert toy.step_s(decodes + chunk).mean_s == pytest.approx(0.012 + 12e-4 + 100e-6)
    assert toy.step_s(decodes + chunk).upper_s == pytest.approx(0.0133 * 1.25)
    assert toy.step_s(Mix()) == (0.0, 0.0, False)


@pytest.mark.parametrize(
    "pairs",
    [[(1, 5)] * 9, [(1, 5000)] * 3, [(513, 0)], [(1, 0), (2, 1001)], [(512, 800), (400, 900)]],
)
def test_beyond_what_was_measured_is_flagged(toy: StepCost, pairs: list) -> None:
    assert toy.step_s(Mix.of(pairs)).extrapolated
    assert not toy.step_s(Mix.of([(1, 5), (100, 0)])).extrapolated


@given(st.data())
def test_more_work_is_never_cheaper(models: Models, mixes: Mixes, data: st.DataObject) -> None:
    model, mix, more = data.draw(models), data.draw(mixes), data.draw(mixes)
    if not mix.prefill_tokens and more.prefill_tokens:
        more = Mix()  # leaving the decode regime is the next test's

    before, after = model.step_s(mix), model.step_s(mix + more)

    assert after.mean_s >= before.mean_s * (1 - 1e-12)
    assert after.upper_s >= before.upper_s * (1 - 1e-12)


@given(st.data(), st.integers(1, 3000), st.integers(0, 5000))
def test_a_mixed_step_is_never_cheaper_than_its_decodes(
    models: Models, mixes: Mixes, data: st.DataObject, chunk: int, history: int
) -> None:
    model, mix = data.draw(models), data.draw(mixes)
    decodes = Mix(
        mix.decodes,
        mix.decode_context_tokens,
        decode_context_squares=mix.decode_context_squares,
    )

    mixed = model.step_s(decodes + Mix.one(chunk + 1, history))

    assert mixed.mean_s >= model.step_s(decodes).mean_s
    assert mixed.upper_s >= model.step_s(decodes).upper_s


def bisected(model: StepCost, slack_s: float, mix: Mix, history: int, upper: bool) -> int:
    """The inverse by asking `step_s` alone."""

    def fits(n: int) -> bool:
        estimate = model.step_s(mix + Mix.one(n, history))
        return (estimate.upper_s if upper else estimate.mean_s) <= slack_s

    low, high = 1, 1 << 22
    if not fits(2):
        return int(fits(1))
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if fits(middle) else (low, middle - 1)
    return low


@settings(max_examples=250)
@given(st.data(), st.floats(0, 3), st.integers(0, 9000), st.booleans())
def test_the_inverse_is_the_largest_chunk_that_fits(
    models: Models,
    mixes: Mixes,
    data: st.DataObject,
    slack_s: float,
    history: int,
    upper: bool,
) -> None:
    model, mix = data.draw(models), data.draw(mixes)

    found = model.prefill_tokens_within(slack_s, mix, history, upper=upper)

    assert min(found, 1 << 22) == bisected(model, slack_s, mix, history, upper)


@settings(max_examples=150)
@given(st.data(), st.integers(2, 5000), st.integers(0, 9000), st.booleans())
def test_a_slack_of_exactly_a_chunk_fits_that_chunk(
    models: Models,
    mixes: Mixes,
    data: st.DataObject,
    chunk: int,
    history: int,
    upper: bool,
) -> None:
    model, mix = data.draw(models), data.draw(mixes)
    exact = model.step_s(mix + Mix.one(chunk, history))
    slack_s = exact.upper_s if upper else exact.mean_s

    found = model.prefill_tokens_within(slack_s, mix, history, upper=upper)

    assert found >= chunk
    assert min(found, 1 << 22) == bisected(model, slack_s, mix, history, upper)


def test_no_token_fits_where_the_jump_to_a_mixed_step_is_too_much(toy: StepCost) -> None:
    decodes = Mix.of([(1, 99)])
    slack_s = toy.step_s(decodes).upper_s * 1.05

    assert toy.prefill_tokens_within(slack_s, decodes, 0) == 0
    assert toy.prefill_tokens_within(slack_s / 2, decodes, 0) == 0
    assert toy.prefill_tokens_within(-1.0, Mix(), 0) == 0


def test_one_token_behind_others_is_priced_as_the_decode_that_it_is(toy: StepCost) -> None:
    slack_s = toy.step_s(Mix.one(1, 50)).upper_s

    assert toy.prefill_tokens_within(slack_s, Mix(), 50) == 1
    assert toy.prefill_tokens_within(slack_s, Mix(), 0) == 0


def test_an_endless_slack_has_an_end(toy: StepCost) -> None:
    assert toy.prefill_tokens_within(math.inf, Mix(), 0) == MOST_TOKENS


@pytest.mark.parametrize(("slack_s", "history"), [(math.nan, 0), (1.0, -1)])
def test_a_question_without_sense_is_refused(toy: StepCost, slack_s: float, history: int) -> None:
    with pytest.raises(ValueError, match="slack_s is"):
        toy.prefill_tokens_within(slack_s, Mix(), history)


def test_the_price_of_a_token_is_what_it_adds(toy: StepCost) -> None:
    decodes = Mix.of([(1, 99), (1, 199)])

    assert toy.seconds_per_token("decode", 500, decodes) == pytest.approx(500e-6)
    chunk_s = 256e-4 + 256 * (1000 + 128) * 1e-6
    alone_s = toy.seconds_per_token("prefill", 1000, Mix.one(100, 0))
    assert alone_s == pytest.approx(chunk_s / 256)


@pytest.mark.parametrize(("kind", "context"), [("prompt", 5), ("decode", 1), ("prefill", -1)])
def test_a_token_that_cannot_be_is_refused(toy: StepCost, kind: str, context: int) -> None:
    with pytest.raises(ValueError, match=r"kind is|context_tokens is"):
        toy.seconds_per_token(kind, context, Mix())  # type: ignore[arg-type]


def test_links_price_bytes_and_unknown_ones_are_named(toy: StepCost) -> None:
    assert toy.transfer_s(1e9, Link(1e9, 0.5)) == 1.5
    assert toy.transfer_s(0, Link(1e9, 0.5)) == 0
    with pytest.raises(ValueError, match="'nvlink' is not in the profile"):
        toy.transfer_s(1, "nvlink")
    with pytest.raises(ValueError, match="nbytes is -1"):
        toy.transfer_s(-1, Link(1e9))


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"curve_s": (0.2, 0.1)}, "falls"),
        ({"knots_tokens": (0, 0)}, "must rise"),
        ({"knots_tokens": (1, 2)}, "first knot 0"),
        ({"per_decode_s": -1e-9}, "per_decode_s is -1e-09"),
        ({"per_token_s": math.nan}, "per_token_s is nan"),
        ({"upper_factor": 0.9}, "upper_factor is 0.9"),
    ],
)
def test_coefficients_that_break_monotonicity_are_refused(change: dict, named: str) -> None:
    good = {"knots_tokens": (0, 10), "curve_s": (0.1, 0.2), "per_token_s": 0.1}

    with pytest.raises(ValueError, match=named):
        Regime(**(good | change))


def test_a_piece_with_a_negative_price_is_refused() -> None:
    with pytest.raises(ValueError, match="per_attention_pair_s is -1"):
        Piece(per_attention_pair_s=-1)


@given(st.data())
def test_a_prompt_costs_what_it_adds_to_a_step_that_runs_anyway(
    models: Models, data: st.DataObject
) -> None:
    model = data.draw(models)
    tokens, history = data.draw(st.integers(2, 3000)), data.draw(st.integers(0, 3000))

    first, again = (model.prompt_s(tokens, history) for _ in range(2))
    alone_s = model.step_s(Mix.one(tokens, history)).mean_s - model.step_s(Mix.one(1, 0)).mean_s

    assert first == again == max(0.0, alone_s)
    assert model.prompt_s(0, history) == 0.0
