"""Prices of a running engine: predicted before, learned after, and what a start begins with."""

import logging
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from hfx.config import CacheConfig, CostConfig, EngineConfig, SchedulerConfig
from hfx.cost import DEVICES, Sizes, StepCost, roofline, save
from hfx.engine import Delta, Engine, StepRecord
from hfx.engine.equip import Equipment, equip
from hfx.engine.live_cost import LiveCost, Origin
from hfx.engine.measure_kernels import kernel_times
from hfx.engine.prices import age, live_cost
from hfx.engine.profiles import calibrate, key_of, levelled, prior, profile_path
from hfx.request import Mix, Request

MakeEngine = Callable[..., Engine]
MakeRequest = Callable[..., Request]
SIZES = Sizes(
    layers=2, width=64, ffn_width=128, query_heads=4, kv_heads=2, head_size=16, vocabulary=90
)
STEP = Mix.of([(1, 20)] * 3)
NAMED = Origin("file", "for a test")


class Steps:
    """Keeps the records; a `StepObserver`."""

    def __init__(self) -> None:
        self.records: list[StepRecord] = []

    def on_step(self, record: StepRecord) -> None:
        self.records.append(record)

    def on_finish(self, delta: Delta) -> None:
        pass


@pytest.fixture
def model() -> StepCost:
    return roofline(SIZES, DEVICES["cpu-2-cores"], model="m")


@pytest.fixture(scope="module")
def equipment() -> Iterator[Equipment]:
    """The bundled model in one thread, with a small pool."""
    threads = torch.get_num_threads()
    yield equip(
        EngineConfig(
            cache=CacheConfig(block_size=16, num_blocks_override=128),
            scheduler=SchedulerConfig(max_num_seqs=8, max_num_batched_tokens=64),
            threads=1,
        )
    )
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def calibrated(equipment: Equipment) -> StepCost:
    return calibrate(equipment, 2.0, phases_s={"loading": 1.5}).model


def test_every_step_is_predicted_before_it_runs_and_learned_from_after(
    make_engine: MakeEngine, make_request: MakeRequest, model: StepCost
) -> None:
    cost, seen = LiveCost(model, NAMED), Steps()
    engine = make_engine(cost=cost, clock=None)
    engine.add_observer(seen)

    engine.add(make_request(prompt=range(20)))
    while engine.has_work:
        expected = cost.snapshot()
        engine.step()
        record = seen.records[-1]
        assert record.predicted is not None
        assert record.predicted.mean_s == pytest.approx(expected.step_s(record.mix).mean_s)

    assert [s.mix.prefill_tokens for s in seen.records] == [16, 4, 0, 0, 0, 0, 0]
    accuracy = cost.accuracy
    assert (accuracy["mixed"].steps, accuracy["decode"].steps) == (2, 5)


def test_steps_without_duration_teach_nothing(
    make_engine: MakeEngine, make_request: MakeRequest, model: StepCost
) -> None:
    cost = LiveCost(model, NAMED)
    engine = make_engine(cost=cost)  # its clock is virtual and stands still

    engine.add(make_request())
    engine.step()

    assert cost.accuracy["mixed"].steps == 0


def test_an_engine_without_prices_predicts_nothing(
    make_engine: MakeEngine, make_request: MakeRequest
) -> None:
    engine, seen = make_engine(), Steps()
    engine.add_observer(seen)

    engine.add(make_request())
    engine.step()

    assert seen.records[0].predicted is None


def test_a_snapshot_has_the_corrected_prices_and_is_not_changed_by_later_steps(
    model: StepCost,
) -> None:
    cost = LiveCost(model, NAMED)
    doubled_s = 2 * model.step_s(STEP).mean_s
    for _ in range(300):
        cost.learn(STEP, doubled_s)

    before = cost.snapshot()
    now = cost.predict(STEP)
    for _ in range(300):
        cost.learn(STEP, doubled_s * 3)

    assert before.step_s(STEP).mean_s == pytest.approx(now.mean_s)
    assert before.step_s(STEP).upper_s == pytest.approx(now.upper_s)
    assert before.step_s(STEP).mean_s == pytest.approx(doubled_s, rel=0.02)
    assert cost.predict(STEP).mean_s == pytest.approx(3 * doubled_s, rel=0.05)


def test_a_short_calibration_prices_both_kinds_of_step(
    equipment: Equipment, calibrated: StepCost
) -> None:
    assert set(calibrated.report) == {"decode", "mixed"}
    assert calibrated.key == key_of(equipment)
    assert calibrated.kv_bytes_per_token == equipment.model.decoder.kv_bytes_per_token
    assert calibrated.startup is not None and calibrated.startup.phases_s == {"loading": 1.5}
    assert "measured 0 minutes ago" in age(calibrated)
    equipment.pool.check()
    assert (equipment.pool.available, equipment.pool.idle) == (equipment.pool.total, 0)


def test_more_tokens_cost_more_by_measured_prices(calibrated: StepCost) -> None:
    small, large = Mix.one(16, 0), Mix.one(64, 0)

    assert calibrated.step_s(large).mean_s > calibrated.step_s(small).mean_s > 0


def test_a_disturbed_repeat_changes_level_and_bound_but_not_the_form(model: StepCost) -> None:
    mixes = [Mix.of([(1, 50)] * n) for n in range(1, 9)]
    samples = [(mix, model.step_s(mix).mean_s * slow) for mix in mixes for slow in (1, 1.2, 3)]

    levelled_model = levelled(model, samples)

    for mix in mixes:
        raw_s, estimate = model.step_s(mix).mean_s, levelled_model.step_s(mix)
        assert estimate.mean_s == pytest.approx(1.2 * raw_s)
        assert estimate.upper_s == pytest.approx(3 * raw_s)
    assert levelled_model.mixed == model.mixed


def test_auto_takes_the_saved_profile_of_this_engine(
    tmp_path: Path, equipment: Equipment, calibrated: StepCost
) -> None:
    path = profile_path(tmp_path, calibrated.key)
    path.parent.mkdir()
    save(calibrated, path)

    cost = live_cost(CostConfig(home=str(tmp_path)), equipment)

    assert cost is not None and cost.model == calibrated
    assert cost.origin.kind == "saved"
    assert str(path) in str(cost) and "decode MAPE" in str(cost)


def test_auto_takes_a_quick_look_where_nothing_is_saved(
    tmp_path: Path, equipment: Equipment
) -> None:
    phases: list[str] = []

    cost = live_cost(
        CostConfig(home=str(tmp_path)), equipment, lambda phase, _: phases.append(phase)
    )

    assert cost is not None and cost.origin.kind == "quick"
    assert phases == ["measuring steps"]
    assert not list(tmp_path.iterdir()), "a look is too little to be kept"


@pytest.mark.parametrize("damage", ["", "{", "[]", '{"format": "hfx.cost"}'])
def test_auto_passes_over_a_damaged_profile_and_says_so(
    tmp_path: Path, equipment: Equipment, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    path = profile_path(tmp_path, key_of(equipment))
    path.parent.mkdir()
    path.write_text(damage)

    with caplog.at_level(logging.WARNING):
        cost = live_cost(CostConfig(home=str(tmp_path)), equipment)

    assert cost is not None and cost.origin.kind == "quick"
    assert str(path) in caplog.text and "is not used" in caplog.text


def test_calibrate_measures_at_the_start_and_keeps_the_profile(
    tmp_path: Path, equipment: Equipment
) -> None:
    config = CostConfig(cost_profile="calibrate", calibration_s=1.0, home=str(tmp_path))

    cost = live_cost(config, equipment)

    assert cost is not None and cost.origin.kind == "calibrated"
    again = live_cost(CostConfig(home=str(tmp_path)), equipment)
    assert again is not None and again.model == cost.model


def test_off_means_no_prices(equipment: Equipment) -> None:
    assert live_cost(CostConfig(cost_profile="off"), equipment) is None


def test_a_preset_is_taken_by_its_name_and_said_to_be_of_something_else(
    equipment: Equipment,
) -> None:
    cost = live_cost(CostConfig(cost_profile="a100-llama3-8b"), equipment)

    assert cost is not None and cost.origin.kind == "preset"
    assert "while SmolLM2-135M-Instruct runs on" in str(cost)


@pytest.mark.parametrize(
    ("field", "value"),
    [("model", "other"), ("version", "0.0.1"), ("dtype", "float32"), ("device", "abacus")],
)
def test_a_named_profile_of_something_else_is_refused_with_the_field(
    tmp_path: Path, equipment: Equipment, field: str, value: str
) -> None:
    path = tmp_path / "other.json"
    first = prior(equipment)
    save(replace(first, key=replace(first.key, **{field: value})), path)

    with pytest.raises(ValueError, match=rf"other\.json: the profile's {field} is '{value}'"):
        live_cost(CostConfig(cost_profile=str(path)), equipment)


def test_a_named_profile_that_is_missing_is_refused_with_the_choices(equipment: Equipment) -> None:
    with pytest.raises(
        ValueError, match=r"cost profile 'nowhere': No such file.*a100-.*or auto, calibrate"
    ):
        live_cost(CostConfig(cost_profile="nowhere"), equipment)


def test_a_named_profile_that_is_damaged_is_refused(tmp_path: Path, equipment: Equipment) -> None:
    path = tmp_path / "damaged.json"
    path.write_text("{")

    with pytest.raises(ValueError, match=r"damaged\.json: not JSON .* measure again"):
        live_cost(CostConfig(cost_profile=str(path)), equipment)


def test_kernels_are_timed_apart(equipment: Equipment) -> None:
    rows = kernel_times(equipment, 60.0)

    names = [row.name.split(",")[0] for row in rows]
    assert list(dict.fromkeys(names)) == [
        *("attention", "qkv", "attention output", "gate and up", "down", "head")
    ]
    assert all(row.bytes_per_s > 0 and row.flops_per_s > 0 for row in rows)


@pytest.mark.parametrize("wrong", [{"cost_profile": ""}, {"calibration_s": 0.0}])
def test_impossible_settings_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        CostConfig(**wrong)
