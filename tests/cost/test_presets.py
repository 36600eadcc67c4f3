"""Presets say where they come from and how good they are, and the public tables bear them out."""

from pathlib import Path

import pytest

from hfx.cost import GemmCost, Key, Mix, fit, judge, preset
from hfx.cost.loaders import aiconfigurator, llmservingsim
from hfx.cost.presets import names
from hfx.cost.presets.make import ENGINE_SHARE, MAKERS, within_memory


@pytest.mark.parametrize("name", names())
def test_a_preset_loads_and_names_its_source_and_error(name: str) -> None:
    model = preset(name)

    assert len(model.source) > 40
    if "like" in name:
        assert "nothing measured" in model.source
        assert model.step_s(Mix.one(1, 5)).extrapolated
    else:
        assert 0 < model.report["decode"].mape < 0.05
        assert 0 < model.report["mixed"].mape < 0.2
    assert model.kv_bytes_per_token > 0
    assert model.startup is not None


def test_the_presets_are_those_that_the_script_makes() -> None:
    assert set(names()) == set(MAKERS)
    with pytest.raises(ValueError, match=r"no preset 'x': .*rtxpro6000-llama3\.1-8b"):
        preset("x")


def test_a_faster_device_is_cheaper() -> None:
    mix = Mix.of([(1, 1000)] * 32 + [(512, 0)])

    times = [preset(name).step_s(mix).mean_s for name in ("h100-llama3.1-8b", "a100-llama3-8b")]

    assert times[0] < times[1]


def test_a_third_of_the_measured_shapes_is_predicted_by_the_others(profiles: Path) -> None:
    stem = "lss_RTXPRO6000_Llama-3.1-8B_tp1"
    paths = [profiles / f"{stem}_{name}.csv.gz" for name in ("attention", "dense", "perseq")]
    steps = within_memory(llmservingsim.load(*paths, layers=32), 600_000)[::6]  # quick
    left_out = steps[::3]
    seen = [step for i, step in enumerate(steps) if i % 3]

    report = judge(fit(seen, key=Key(device="d", model="m", dtype="bf16")), left_out)

    assert report["decode"].mape <= 0.02
    assert report["mixed"].mape <= 0.05
    assert report["mixed"].p90 <= 0.10


def test_the_shipped_preset_prices_its_own_tables(profiles: Path) -> None:
    stem = "lss_RTXPRO6000_Llama-3.1-8B_tp1"
    paths = [profiles / f"{stem}_{name}.csv.gz" for name in ("attention", "dense", "perseq")]
    steps = within_memory(llmservingsim.load(*paths, layers=32), 600_000)[::10]

    report = judge(preset("rtxpro6000-llama3.1-8b"), [(mix, t * ENGINE_SHARE) for mix, t in steps])

    assert report["mixed"].mape <= 0.05
    assert report["mixed"].coverage > 0.93


def test_products_with_unseen_weights_are_predicted(profiles: Path) -> None:
    table = aiconfigurator.gemms(profiles / "aic_h100_sxm_gemm.csv.gz")
    shapes = sorted({(n, k) for _, n, k, _ in table})
    left_out = set(shapes[::3])
    cost = GemmCost.fit([row for row in table if row[1:3] not in left_out])

    errors = [abs(cost.seconds(m, n, k)[0] / t - 1) for m, n, k, t in table if (n, k) in left_out]

    assert sum(errors) / len(errors) <= 0.06
