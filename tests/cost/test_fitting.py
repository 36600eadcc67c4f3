"""Fitting: known prices come back, wild samples do no harm, and thin data is refused by name."""

import random

import pytest

from hfx.cost import Key, Mix, Piece, Regime, StepCost, fit, judge

KEY = Key(device="toy", model="toy", dtype="float32")
TRUTH = StepCost(
    key=KEY,
    decode=Regime(
        knots_tokens=(0,),
        curve_s=(0.010,),
        per_token_s=2e-5,
        pieces=(Piece(per_decode_context_token_s=5e-8),),
    ),
    mixed=Regime(
        knots_tokens=(0, 192),
        curve_s=(0.012, 0.013),
        per_token_s=4e-5,
        per_decode_s=1e-5,
        per_chunk_s=1e-5,
        pieces=(
            Piece(
                per_decode_context_token_s=8e-8,
                per_prefill_context_token_s=2e-7,
                per_attention_pair_s=2e-9,
            ),
        ),
    ),
)


def mixes(count: int, seed: int) -> list[Mix]:
    rng = random.Random(seed)

    def mix() -> Mix:
        pairs = [(1, rng.randint(20, 4000))] * rng.randint(0, 40)
        if rng.random() < 0.6 or not pairs:
            pairs += [(rng.randint(2, 1500), rng.choice([0, 0, 900, 4000]))] * rng.randint(1, 2)
        return Mix.of(pairs)

    return [mix() for _ in range(count)]


def measured(count: int, seed: int = 0, noise: float = 0.01) -> list[tuple[Mix, float]]:
    rng = random.Random(seed)
    return [
        (mix, TRUTH.step_s(mix).mean_s * rng.uniform(1 - noise, 1 + noise))
        for mix in mixes(count, seed)
    ]


def test_known_prices_come_back_on_steps_that_were_left_out() -> None:
    report = judge(fit(measured(400), key=KEY), measured(200, seed=1, noise=0))

    assert report["decode"].mape < 0.01
    assert report["mixed"].mape < 0.01


@pytest.mark.parametrize("count", [24, 60])
def test_few_steps_are_enough_where_the_form_is_simple(count: int) -> None:
    model = fit(measured(count), key=KEY)

    report = judge(model, measured(200, seed=1, noise=0))

    assert report["decode"].mape < 0.03
    assert report["mixed"].mape < 0.05


def test_the_report_says_what_steps_left_out_of_the_fit_show() -> None:
    model = fit(measured(600, noise=0.05), key=KEY)

    for regime in ("decode", "mixed"):
        quality = model.report[regime]
        assert 0.02 < quality.mape < 0.035  # uniform noise of 5 % has a mean of 2.5 %
        assert quality.p50 < quality.p90 < 0.06
        assert 0.92 < quality.coverage < 0.98
    assert 1.03 < model.mixed.upper_factor < 1.06
    assert sum(quality.steps for quality in model.report.values()) == 600


def test_slow_first_samples_and_interruptions_do_no_harm() -> None:
    steps = measured(400)
    unwarmed = [(mix, seconds * 8) for mix, seconds in steps]
    repeated = unwarmed + steps + steps
    rng = random.Random(5)
    interrupted = [(mix, t * (20 if rng.random() < 0.05 else 1)) for mix, t in measured(400)]

    for wild in (repeated, interrupted):
        report = judge(fit(wild, key=KEY), measured(200, seed=1, noise=0))
        assert report["decode"].mape < 0.01
        assert report["mixed"].mape < 0.015


def test_the_report_judges_prompt_lengths_that_the_fit_has_not_seen() -> None:
    """Every length has a wave of its own: steps of seen lengths alone would hide that."""
    rng = random.Random(1)
    waves = {length: 1 + 0.2 * (i % 2) for i, length in enumerate(range(64, 1024, 64))}
    chunks = [
        Mix.of([(length, 0), *[(1, rng.randint(20, 900))] * rng.randint(0, 8)])
        for length in waves
        for _ in range(20)
    ]
    steps = [(mix, TRUTH.step_s(mix).mean_s * waves[mix.prefill_tokens]) for mix in chunks]
    decodes = [step for step in measured(200) if not step[0].chunks]

    report = fit([*decodes, *steps], key=KEY).report

    assert report["mixed"].mape > 0.07
    assert report["decode"].mape < 0.01


def test_a_gap_between_measured_lengths_is_bridged_by_a_straight_line() -> None:
    steps = [s for s in measured(900) if not 250 < s[0].prefill_tokens < 1100]
    model = fit(steps, key=KEY)

    for length in (350, 600, 900):
        mix = Mix.of([(length, 0), (1, 500)])
        assert model.step_s(mix).mean_s == pytest.approx(TRUTH.step_s(mix).mean_s, rel=0.04)


def test_limits_are_the_largest_sums_that_were_measured() -> None:
    steps = measured(400)
    model = fit(steps, key=KEY)

    assert model.measured.prefill_tokens == max(mix.prefill_tokens for mix, _ in steps)
    assert not model.step_s(steps[0][0]).extrapolated
    assert model.step_s(Mix.one(9000, 0)).extrapolated


@pytest.mark.parametrize(
    ("steps", "named"),
    [
        ([], "0 different mixes of at least 6; measure decode steps of at least 3 batch sizes"),
        ([(Mix.of([(1, 50)] * n), 0.01) for n in range(1, 9)], "every decode had the same context"),
        ([(Mix.of([(1, n)]), 0.01) for n in range(1, 9)], "1 batch sizes of at least 3"),
        (
            [s for s in measured(100) if not s[0].chunks] + [(Mix.one(64, 0), 0.02)],
            "1 different mixes of at least 10; measure steps with prompt chunks",
        ),
        (
            [s for s in measured(100) if not s[0].chunks]
            + [(Mix.one(64, 10 * n), 0.02) for n in range(12)],
            "1 chunk lengths of at least 3",
        ),
    ],
)
def test_thin_data_is_refused_with_the_shapes_to_measure(
    steps: list[tuple[Mix, float]], named: str
) -> None:
    with pytest.raises(ValueError) as raised:
        fit(steps, key=KEY)

    assert named in str(raised.value)


@pytest.mark.parametrize("seconds", [0.0, -1.0, float("nan"), float("inf")])
def test_an_impossible_time_is_refused_by_its_place(seconds: float) -> None:
    steps = measured(40)
    steps[7] = (steps[7][0], seconds)

    with pytest.raises(ValueError, match=f"step 7 took {seconds} s"):
        fit(steps, key=KEY)


def test_a_step_that_did_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="step 0 did nothing"):
        fit([(Mix(), 1.0)], key=KEY)


def test_a_prior_stands_in_where_little_was_measured_scaled_to_it() -> None:
    few = [(mix, TRUTH.step_s(mix).mean_s * 1.3) for mix in mixes(8, 3)]
    only_decodes = [step for step in measured(100) if not step[0].chunks]

    scaled = fit(few, key=KEY, prior=TRUTH)
    kept = fit(only_decodes, key=KEY, prior=TRUTH)

    probe = Mix.of([(300, 100), (1, 50)])
    assert scaled.step_s(probe).mean_s == pytest.approx(1.3 * TRUTH.step_s(probe).mean_s)
    assert kept.mixed == TRUTH.mixed
    assert "mixed" not in kept.report


def test_the_same_steps_give_the_same_model() -> None:
    assert fit(measured(200), key=KEY) == fit(measured(200), key=KEY)
