"""Online correction: follows a device that changes, is not fooled by outliers, keeps its bound."""

import math
import random
from collections.abc import Callable

import pytest

from hfx.cost import Mix, OnlineCost, StepCost


def observed(
    model: StepCost,
    speed: Callable[[int], float],
    *,
    steps: int,
    seed: int = 0,
    sigma: float = 0.03,
    outliers: float = 0.0,
) -> tuple[OnlineCost, list[tuple[str, float, bool]]]:
    """A synthetic device: regime, signed error and coverage of every step, in order."""
    rng, online, seen = random.Random(seed), OnlineCost(model), []
    for step in range(steps):
        pairs = [(1, rng.randint(10, 900)) for _ in range(rng.randint(1, 8))]
        if rng.random() < 0.4:
            pairs.append((rng.randint(16, 200), 0))
        mix = Mix.of(pairs)
        seconds = model.step_s(mix).mean_s * speed(step) * math.exp(rng.gauss(0, sigma))
        if rng.random() < outliers:
            seconds *= rng.choice([3, 10])
        expected = online.observe(mix, seconds)
        regime = "mixed" if mix.chunks else "decode"
        seen.append((regime, expected.mean_s / seconds - 1, seconds <= expected.upper_s))
    return online, seen


def mean_error(seen: list[tuple[str, float, bool]]) -> float:
    return sum(error for _, error, _ in seen) / len(seen)


@pytest.mark.parametrize("factor", [1.2, 0.8])
@pytest.mark.parametrize("seed", range(3))
def test_a_step_change_of_a_fifth_is_followed_within_200_steps(
    toy: StepCost, factor: float, seed: int
) -> None:
    _, seen = observed(toy, lambda i: factor if i >= 500 else 1.0, steps=800, seed=seed)

    assert abs(mean_error(seen[500:510])) > 0.1  # it was a change
    assert abs(mean_error(seen[650:700])) < 0.02
    assert abs(mean_error(seen[700:800])) < 0.02


@pytest.mark.parametrize(
    "speed",
    [
        lambda i: 1 + 0.15 * math.sin(i / 300),
        lambda i: 1 + 1e-4 * i,
        lambda i: 1 + 0.2 * (i // 500 % 2),
    ],
    ids=["waves", "ramp", "square"],
)
@pytest.mark.parametrize("sigma", [0.02, 0.1])
def test_the_bound_covers_95_percent_of_a_drifting_device(
    toy: StepCost, speed: Callable[[int], float], sigma: float
) -> None:
    _, seen = observed(toy, speed, steps=4000, sigma=sigma)

    for regime in ("decode", "mixed"):
        covered = [ok for name, _, ok in seen if name == regime]
        assert sum(covered) / len(covered) == pytest.approx(0.95, abs=0.02)


def test_outliers_hardly_move_the_mean(toy: StepCost) -> None:
    online, seen = observed(toy, lambda i: 1.0, steps=3000, outliers=0.03)

    assert online.accuracy["decode"].factor == pytest.approx(1, abs=0.03)
    assert online.accuracy["mixed"].factor == pytest.approx(1, abs=0.03)
    assert sum(ok for _, _, ok in seen) / len(seen) == pytest.approx(0.95, abs=0.02)


def test_one_absurd_step_moves_the_mean_by_little(toy: StepCost) -> None:
    online, _ = observed(toy, lambda i: 1.0, steps=300)
    mix = Mix.of([(1, 100)])
    before_s = online.step_s(mix).mean_s

    online.observe(mix, 1000.0)

    assert online.step_s(mix).mean_s < 1.05 * before_s


def test_the_inverse_uses_the_corrected_prices_exactly(toy: StepCost) -> None:
    online, _ = observed(toy, lambda i: 1.37, steps=500)
    mix = Mix.of([(1, 300), (1, 40)])

    for slack_s in (0.02, 0.05, 0.3):
        n = online.prefill_tokens_within(slack_s, mix, 70)
        assert online.step_s(mix + Mix.one(n, 70)).upper_s <= slack_s
        assert online.step_s(mix + Mix.one(n + 1, 70)).upper_s > slack_s


def test_what_is_counted_can_be_read(toy: StepCost) -> None:
    online, _ = observed(toy, lambda i: 1.1, steps=400)

    decode = online.accuracy["decode"]
    assert decode.steps + online.accuracy["mixed"].steps == 400
    assert decode.factor == pytest.approx(1.1, abs=0.03)
    assert decode.mape < 0.06
    assert online.seconds_per_token("decode", 500, Mix.of([(1, 9)])) == pytest.approx(
        500e-6 * decode.factor
    )


@pytest.mark.parametrize("seconds", [0.0, -1.0, math.nan, math.inf])
def test_an_impossible_time_teaches_nothing(toy: StepCost, seconds: float) -> None:
    with pytest.raises(ValueError, match="teaches nothing"):
        OnlineCost(toy).observe(Mix.of([(1, 5)]), seconds)
    with pytest.raises(ValueError, match="teaches nothing"):
        OnlineCost(toy).observe(Mix(), 1.0)


def test_a_remembered_price_of_a_prompt_follows_the_correction(toy: StepCost) -> None:
    online = OnlineCost(toy)
    before_s = online.prompt_s(500, 100)

    for _ in range(60):
        online.observe(Mix.one(500, 100), 2 * toy.step_s(Mix.one(500, 100)).mean_s)

    added_s = online.step_s(Mix.one(500, 100)).mean_s - online.step_s(Mix.one(1, 0)).mean_s
    assert online.prompt_s(500, 100) == added_s > 1.5 * before_s
