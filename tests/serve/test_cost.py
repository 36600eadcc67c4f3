"""The server's cost model: which one, how good, predicted against actual in /metrics."""

from pathlib import Path
from typing import Any

import openai
import pytest

from hfx.cost import preset, save
from hfx.serve.cli import read


def test_the_flag_wins_over_the_environment_over_the_file(tmp_path: Path) -> None:
    file = tmp_path / "serve.yaml"
    file.write_text("cost-profile: off-by-file\nhome: /file\ncalibration-budget: 3\n")
    environment = {"HFX_COST_PROFILE": "by-env", "HFX_HOME": "/env"}

    cost = read(
        ["--config", str(file), "--cost-profile", "by-flag"], environment
    ).config.engine.cost

    assert (cost.cost_profile, cost.home, cost.calibration_s) == ("by-flag", "/env", 3.0)


def test_home_is_no_unknown_variable() -> None:
    assert read([], {"HFX_HOME": "/x"}).unknown_env == ()


def test_the_start_says_which_profile_is_used_and_how_good_it_is(server: Any) -> None:
    line = next(line for line in server.text.splitlines() if line.startswith("cost profile: "))

    assert "quick look" in line or "MAPE" in line


def test_metrics_compare_predicted_with_actual_steps(server: Any, client: openai.OpenAI) -> None:
    before = server.metric("predicted_step_seconds_count")

    client.completions.create(model="tiny", prompt="One two three", max_tokens=8, temperature=0)

    text = server.get("/metrics").text
    assert server.metric("predicted_step_seconds_count") >= before + 8
    assert server.metric("predicted_step_seconds_sum") > 0
    for regime in ("decode", "mixed"):
        assert server.metric(f"step_prediction_error_count{{.*{regime}.*}}") > 0
        assert f'regime="{regime}"' in text
    assert 'hfx:step_prediction_coverage{engine="0",model_name="tiny",regime="decode"} ' in text
    assert 'profiled_model="SmolLM2-135M-Instruct"' in text
    counted = server.metric("step_prediction_error_count")
    assert counted == server.metric("predicted_step_seconds_count")


@pytest.mark.parametrize(
    ("profile", "message"),
    [
        ("nowhere.json", "cost profile 'nowhere.json': No such file or directory; give the path"),
        ("{folder}/other.json", "the profile's device is 'a100-sxm-80gb'"),
    ],
)
def test_a_profile_that_cannot_be_used_ends_the_start(
    start: Any, tmp_path: Path, profile: str, message: str
) -> None:
    save(preset("a100-llama3-8b"), tmp_path / "other.json")

    server = start(
        *("--threads", "1", "--num-blocks-override", "16", "--max-model-len", "512"),
        *("--cost-profile", profile.format(folder=tmp_path)),
    )

    server.wait_for("(the process has ended)")
    assert server.process.wait(timeout=10) == 2
    (line,) = (line for line in server.text.splitlines() if line.startswith("hfx: can't serve"))
    assert message in line
