"""Measuring: shapes that the engine could run, blocks borrowed and given back, every repeat."""

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hfx.cache import BlockPool
from hfx.cost import DEVICES, Key, Sizes, StepCost, fit, roofline
from hfx.engine import Sampled, StepBatch, StepOutput
from hfx.engine.measure import WARM_UPS, described, in_order, measure
from hfx.engine.measure_shapes import CORE, Bounds, designed
from hfx.engine.measure_spells import without_slow_spells
from hfx.request import Mix, Sampling

SMALL = Bounds(max_seqs=8, max_step_tokens=64, max_model_len=128, kv_tokens=512, block_tokens=16)
USUAL = Bounds(
    max_seqs=64, max_step_tokens=512, max_model_len=8192, kv_tokens=65536, block_tokens=64
)
SIZES = Sizes(
    layers=30,
    width=576,
    ffn_width=1536,
    query_heads=9,
    kv_heads=3,
    head_size=64,
    vocabulary=49152,
)
bounds = st.builds(
    Bounds,
    max_seqs=st.integers(1, 300),
    max_step_tokens=st.integers(1, 9000),
    max_model_len=st.integers(1, 9000),
    kv_tokens=st.integers(16, 70000),
    block_tokens=st.sampled_from((16, 64)),
)


@pytest.fixture(scope="module")
def guess() -> StepCost:
    return roofline(SIZES, DEVICES["cpu-2-cores"], model="m")


class Ledger:
    """An executor that checks how blocks are used; every step takes no time worth mentioning."""

    def __init__(self) -> None:
        self.filled: set[int] = set()
        self.shapes: list[tuple[tuple[int, int], ...]] = []
        self.temperatures: set[float] = set()

    def fill(self, blocks: Sequence[int]) -> None:
        self.filled = set(blocks)

    def execute(self, batch: StepBatch) -> StepOutput:
        queries = np.diff(batch.query_starts)
        used: set[int] = set()
        for row, context in zip(batch.table_SC, batch.context_lens_S, strict=True):
            own = row[: -(-int(context) // 16)].tolist()
            assert len(set(own)) == len(own) and used.isdisjoint(own)
            used.update(own)
        assert used <= self.filled, "a block was read that holds no noise"
        assert batch.sampled_rows_R.tolist() == (batch.query_starts[1:] - 1).tolist()
        pairs = zip(queries.tolist(), (batch.context_lens_S - queries).tolist(), strict=True)
        self.shapes.append(tuple(pairs))
        assert Mix.of(self.shapes[-1]) == batch.mix
        self.temperatures.update(draw.sampling.temperature for draw in batch.draws)
        return StepOutput([Sampled(0)] * len(batch.draws))


@given(bounds)
def test_every_designed_shape_is_a_step_that_the_engine_could_run(bounds: Bounds) -> None:
    shapes = designed(bounds)

    assert all(bounds.allow(shape) for shape in shapes)
    assert len(set(shapes)) == len(shapes)


def test_the_first_shapes_suffice_for_a_fit_without_a_prior(guess: StepCost) -> None:
    steps = [(Mix.of(shape), guess.step_s(Mix.of(shape)).mean_s) for shape in designed(USUAL)]

    model = fit(steps[:CORE], key=Key(device="d", model="m", dtype="bfloat16"))

    assert model.report["decode"].mape < 0.1
    assert model.report["mixed"].mape < 0.1


def test_measuring_borrows_blocks_and_leaves_neither_them_nor_a_prefix_behind(
    guess: StepCost,
) -> None:
    pool, ledger = BlockPool(32, 16), Ledger()
    samplings = (Sampling(temperature=0.0), Sampling(temperature=0.7))

    measured = measure(
        ledger, pool, SMALL, vocabulary=9, samplings=samplings, guess=guess, budget_s=0.5
    )

    pool.check()
    assert (pool.available, pool.idle) == (32, 0)
    assert {each.shape for each in measured} == set(designed(SMALL)) == set(ledger.shapes)
    assert ledger.temperatures == {0.0, 0.7}


def test_a_measurement_knows_its_mix_and_every_repeat(guess: StepCost) -> None:
    measured = measure(Ledger(), BlockPool(32, 16), SMALL, vocabulary=9, guess=guess, budget_s=0.5)

    for each in measured:
        assert each.mix == Mix.of(each.shape)
        assert len(each.times_s) > 1 and min(each.times_s) <= each.median_s <= max(each.times_s)


def test_runs_are_listed_in_the_order_in_which_they_ran(guess: StepCost) -> None:
    ledger = Ledger()

    measured = measure(ledger, BlockPool(32, 16), SMALL, vocabulary=9, guess=guess, budget_s=0.5)

    counted = ledger.shapes[WARM_UPS:]
    assert [mix for mix, _ in in_order(measured)] == [Mix.of(shape) for shape in counted]


def test_slow_spells_of_the_machine_are_divided_out(guess: StepCost) -> None:
    mixes = [Mix.of(shape) for shape in designed(USUAL)] * 2
    true_s = np.array([guess.step_s(mix).mean_s for mix in mixes])
    slow = np.ones(len(mixes))
    slow[40:90] = slow[150:180] = 2.1  # another process takes one of two cores

    steady = without_slow_spells(
        list(zip(mixes, (true_s * slow).tolist(), strict=True)), guess.key, guess
    )

    assert [mix for mix, _ in steady] == mixes
    errors = np.abs(np.array([seconds for _, seconds in steady]) / true_s - 1)
    assert np.quantile(errors, 0.9) < 0.05


def test_without_slow_spells_the_times_stay_as_they_are(guess: StepCost) -> None:
    mixes = [Mix.of(shape) for shape in designed(USUAL)]
    steps = [(mix, guess.step_s(mix).mean_s) for mix in mixes]

    assert without_slow_spells(steps, guess.key, guess) == steps


def test_progress_is_told_and_never_falls(guess: StepCost) -> None:
    told: list[tuple[float, str]] = []

    measure(
        Ledger(),
        BlockPool(32, 16),
        SMALL,
        vocabulary=9,
        guess=guess,
        budget_s=0.2,
        progress=lambda share, what: told.append((share, what)),
    )

    shares = [share for share, _ in told]
    assert shares == sorted(shares) and 0 < shares[0] <= shares[-1] <= 1
    assert ("8 decodes at 64") in {what for _, what in told}


def test_a_step_that_fails_gives_the_blocks_back(guess: StepCost) -> None:
    class Broken(Ledger):
        def execute(self, batch: StepBatch) -> StepOutput:
            raise RuntimeError("broken")

    pool = BlockPool(32, 16)

    with pytest.raises(RuntimeError, match="broken"):
        measure(Broken(), pool, SMALL, vocabulary=9, guess=guess)

    assert pool.available == 32


@pytest.mark.parametrize("budget_s", [0.0, -1.0, float("nan")])
def test_a_budget_of_nothing_is_refused(guess: StepCost, budget_s: float) -> None:
    with pytest.raises(ValueError, match="budget_s is"):
        measure(Ledger(), BlockPool(32, 16), SMALL, vocabulary=9, guess=guess, budget_s=budget_s)


def test_a_pool_too_small_for_any_step_is_refused(guess: StepCost) -> None:
    none = Bounds(max_seqs=1, max_step_tokens=1, max_model_len=1, kv_tokens=0, block_tokens=16)

    with pytest.raises(ValueError, match="no step fits"):
        measure(Ledger(), BlockPool(1, 16), none, vocabulary=9, guess=guess)


def test_a_shape_is_described_in_words() -> None:
    shape = ((64, 512), (64, 512), (1, 99), (1, 299))

    assert described(shape) == "2 x 64 prompt tokens, behind 512, 2 decodes at 200"
