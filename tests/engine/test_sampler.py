"""The sampler against plain definitions: what may be drawn, how often, and from which number."""

import math
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hfx.engine.adjust import adjust
from hfx.engine.draw import Draw, TokenCounts
from hfx.engine.sampler import NO_NUMBER, cut_weights, index_at, sample
from hfx.request import Sampling

LOGITS = np.array([2.0, 1.0, 0.5, 0.0, -1.0, -3.0], dtype=np.float32)


def draw(seed: str = "1", index: int = 0, **sampling: object) -> Draw:
    return Draw(Sampling(**sampling), seed, index)  # type: ignore[arg-type]


def chances(logits: np.ndarray, sampling: Sampling) -> np.ndarray:
    """The distribution by its definition: sort, cut, normalise; in float64."""
    scaled = logits.astype(np.float64) / sampling.temperature
    p = np.exp(scaled - scaled.max())
    p /= p.sum()
    p[p < sampling.min_p * p.max()] = 0.0
    order = np.argsort(-p, kind="stable")
    if sampling.top_k:
        p[order[sampling.top_k :]] = 0.0
    p /= p.sum()
    before = np.cumsum(p[order]) - p[order]
    if sampling.top_p < 1.0:
        p[order[before >= sampling.top_p]] = 0.0
    return p / p.sum()


def counted(logits: np.ndarray, sampling: Sampling, draws: int) -> np.ndarray:
    rows = np.broadcast_to(logits, (draws, len(logits)))
    sampled = sample(rows, [Draw(sampling, "seed", index) for index in range(draws)])
    counts = Counter(row.token_id for row in sampled)
    return np.array([counts[token] for token in range(len(logits))])


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.integers(-40, 40), min_size=1, max_size=2000, unique=True),
    st.floats(0.3, 3.0),
    st.integers(0, 30),
    st.floats(0.05, 1.0),
    st.floats(0.0, 0.5),
)
def test_the_cuts_leave_the_distribution_of_their_definition(
    eighths: list[int], temperature: float, top_k: int, top_p: float, min_p: float
) -> None:
    sampling = Sampling(temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p)
    logits = (np.array(eighths) / 8).astype(np.float32)

    weights = cut_weights(logits, int(logits.argmax()), sampling)

    got, wanted = weights / weights.sum(), chances(logits, sampling)
    # A token exactly on an edge of a cut may fall on either side of it.
    different = np.flatnonzero((got > 0) != (wanted > 0))
    if len(different) == 0:
        np.testing.assert_allclose(got, wanted, rtol=1e-4)
    else:
        assert len(different) == 1


def test_a_wide_nucleus_is_cut_where_a_narrow_one_is() -> None:
    logits = np.linspace(0.0, -0.5, 5000).astype(np.float32)
    sampling = Sampling(top_p=0.9)

    weights = cut_weights(logits, 0, sampling)

    kept = np.count_nonzero(weights)
    assert kept == np.count_nonzero(chances(logits, sampling)) and 4000 < kept < 4900


@pytest.mark.parametrize(
    "sampling",
    [
        Sampling(),
        Sampling(temperature=0.5),
        Sampling(temperature=3.0),
        Sampling(top_k=3),
        Sampling(top_p=0.8),
        Sampling(min_p=0.3),
        Sampling(top_k=4, top_p=0.9, min_p=0.05, temperature=1.5),
    ],
)
def test_tokens_are_drawn_as_often_as_they_are_likely(sampling: Sampling) -> None:
    draws = 4000
    wanted = chances(LOGITS, sampling) * draws

    counts = counted(LOGITS, sampling, draws)

    assert counts[wanted == 0].sum() == 0
    likely = wanted > 5
    chi_square = (((counts - wanted) ** 2)[likely] / wanted[likely]).sum()
    assert chi_square < 25  # 5 degrees of freedom: one in 7,000 at random, and the seed is fixed


@settings(max_examples=200, deadline=None)
@given(st.lists(st.sampled_from([0.0, 0.0, 1.0, 0.25, 3.0]), min_size=1, max_size=1500), st.data())
def test_a_number_finds_its_token_in_the_cumulative_distribution(
    values: list[float], data: st.DataObject
) -> None:
    weights = np.array([*values, 1.0], dtype=np.float32)
    uniform = data.draw(st.floats(0.0, 1.0, exclude_max=True))

    found = index_at(weights, uniform)

    ends = weights.astype(np.float64).cumsum()  # exact: the weights are sums of quarters
    assert weights[found] > 0
    assert ends[found] - weights[found] <= uniform * ends[-1] <= ends[found]


def test_greedy_takes_the_best() -> None:
    rows = np.stack([LOGITS, LOGITS[::-1]])

    assert [row.token_id for row in sample(rows, [draw(temperature=0.0)] * 2)] == [0, 5]
    assert [row.token_id for row in sample(rows, [draw(top_k=1)] * 2)] == [0, 5]


def test_a_row_does_not_depend_on_its_neighbours() -> None:
    random = np.random.default_rng(0)
    rows = random.normal(size=(6, 3000)).astype(np.float32) * 2
    draws = [
        draw("a"),
        draw("b", top_p=0.9),
        draw("c", temperature=0.0),
        draw("d", top_k=40),
        draw("e", logit_bias={3: 5.0}),
        draw("f", min_p=0.1, logprobs=2),
    ]

    together = sample(rows, draws)
    alone = [sample(rows[i : i + 1], [draws[i]])[0] for i in range(6)]

    assert together == alone


def test_seed_and_index_decide_the_random_number() -> None:
    assert draw("1", 5).uniform() == draw("1", 5).uniform()
    assert len({draw(seed, index).uniform() for seed in "123" for index in range(50)}) == 150
    mean = sum(draw("7", index).uniform() for index in range(2000)) / 2000
    assert 0.47 < mean < 0.53


def test_a_row_that_is_not_finite_is_an_error_and_others_go_on() -> None:
    rows = np.stack([LOGITS] * 4)
    rows[1, 2], rows[2, 4] = np.nan, np.inf
    rows[3] = -np.inf

    sampled = sample(rows, [draw(temperature=0.0), draw(), draw(temperature=0.0), draw()])

    assert [row.error for row in sampled] == [None, NO_NUMBER, NO_NUMBER, NO_NUMBER]
    assert sampled[0].token_id == 0


def test_a_bias_moves_a_token_and_minus_a_hundred_bans_it() -> None:
    bias = {5: 100.0, 0: -100.0}

    [row] = sample(LOGITS[None], [draw(temperature=0.0, logit_bias=bias)])
    [other] = sample(LOGITS[None], [draw(temperature=0.0, logit_bias={0: -100.0})])

    assert (row.token_id, other.token_id) == (5, 1)
    assert LOGITS[0] == 2.0  # the logits themselves are left as they are


def test_forbidden_tokens_are_not_drawn() -> None:
    chosen = Draw(Sampling(temperature=0.0), "1", 0, forbidden=(0, 1))

    assert sample(LOGITS[None], [chosen])[0].token_id == 2


def test_a_row_whose_tokens_are_all_forbidden_is_an_error() -> None:
    chosen = Draw(Sampling(), "1", 0, forbidden=tuple(range(6)))

    error = sample(LOGITS[None], [chosen])[0].error

    assert error is not None and "no token is left" in error


def test_penalties_follow_their_definitions() -> None:
    counts = TokenCounts(frozenset([0, 4]))
    counts.output.update([1, 1, 4])
    logits = np.array([2.0, 1.9, 0.5, 0.4, -1.0, -3.0], dtype=np.float32)

    def adjusted(**penalties: float) -> list[float]:
        told = Draw(Sampling(temperature=0.0, **penalties), "1", 0, (), counts)  # type: ignore[arg-type]
        return [round(float(x), 4) for x in adjust(logits, told)]

    assert adjusted(presence_penalty=0.5) == [2.0, 1.4, 0.5, 0.4, -1.5, -3.0]
    assert adjusted(frequency_penalty=0.5) == [2.0, 0.9, 0.5, 0.4, -1.5, -3.0]
    assert adjusted(repetition_penalty=2.0) == [1.0, 0.95, 0.5, 0.4, -2.0, -3.0]


def test_logprobs_are_of_the_models_own_distribution() -> None:
    told = draw(temperature=0.0, logprobs=3, logit_bias={4: 100.0})

    [row] = sample(LOGITS[None], [told])

    log_total = math.log(sum(math.exp(x) for x in LOGITS.tolist()))
    assert row.logprob is not None
    assert (row.token_id, row.logprob.rank) == (4, 5)
    assert row.logprob.logprob == pytest.approx(-1.0 - log_total, abs=1e-5)
    assert [token for token, _ in row.logprob.top] == [0, 1, 2]
    assert row.logprob.top[1][1] == pytest.approx(1.0 - log_total, abs=1e-5)


def test_alternatives_are_as_many_as_there_are_tokens_at_most() -> None:
    [row] = sample(LOGITS[None], [draw(temperature=0.0, logprobs=20)])

    assert row.logprob is not None and len(row.logprob.top) == 6


def test_no_alternatives_are_reported_unless_asked_for() -> None:
    [with_own, without] = sample(
        np.stack([LOGITS] * 2), [draw(temperature=0.0, logprobs=0), draw(temperature=0.0)]
    )

    assert with_own.logprob is not None and with_own.logprob.top == ()
    assert without.logprob is None
