"""The command as users meet it: one short calibration for real, and what can be wrong."""

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from hfx.calibrate.cli import main
from hfx.calibrate.session import measuring_s
from hfx.calibrate.tables import price_list
from hfx.cost import load, preset


@dataclass(frozen=True, slots=True)
class Run:
    """One calibration, and what it wrote."""

    output: str
    progress: str
    profile: Path
    picture: Path
    home: Path


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("calibrate")
    profile, picture = folder / "profile.json", folder / "picture.svg"
    done = subprocess.run(
        [
            *(sys.executable, "-m", "hfx.calibrate", "--budget-s", "3", "--threads", "1"),
            *("--max-num-seqs", "8", "--max-num-batched-tokens", "64"),
            *("--json", str(profile), "--report", str(picture)),
        ],
        capture_output=True,
        text=True,
        timeout=120,
        env=os.environ | {"HFX_HOME": str(folder / "home"), "MPLCONFIGDIR": str(folder / "mpl")},
    )
    assert done.returncode == 0, done.stderr
    return Run(done.stdout, done.stderr, profile, picture, folder / "home")


def test_a_calibration_prints_errors_by_regime_kernels_and_prices(run: Run) -> None:
    lines = [line.split() for line in run.output.splitlines()]

    starts = [words[0] for words in lines if words]
    assert {"decode", "mixed"} <= set(starts)
    assert "attention, 16 x 1 decodes at 1024" in run.output
    assert ["prompt", "token", "1024"] in [words[:3] for words in lines]


def test_a_calibration_shows_its_progress(run: Run) -> None:
    assert "measuring steps: 100%" in run.progress


def test_the_profile_is_saved_where_asked_and_where_the_server_looks(run: Run) -> None:
    (kept,) = (run.home / "profiles").iterdir()

    model = load(run.profile, model="SmolLM2-135M-Instruct", dtype="bfloat16", tensor_parallel=1)

    assert kept.read_text() == run.profile.read_text()
    assert model.key.device.endswith("-1-thread")
    assert model.startup is not None and model.startup.phases_s["loading weights"] > 0
    assert kept.name.startswith(model.key.device)


def test_the_picture_is_drawn(run: Run) -> None:
    drawing = run.picture.read_text()

    assert "<svg" in drawing and len(drawing) > 10_000


def test_a_saved_profile_can_be_shown(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--show", str(run.profile)]) == 0

    shown = capsys.readouterr().out
    model = load(run.profile)
    assert shown.startswith(f"{model.key.model} on {model.key.device}, bfloat16")
    assert price_list(model) in shown


def test_a_preset_can_be_shown(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--show", "a100-llama3-8b"]) == 0

    shown = capsys.readouterr().out
    assert "llama-3-8b on a100-sxm-80gb" in shown
    assert preset("a100-llama3-8b").source in shown
    assert shown.count("output token") >= 4


def test_prices_beyond_what_was_measured_are_marked() -> None:
    listed = price_list(preset("a100-llama3-8b"))

    long = next(line for line in listed.splitlines() if "prompt token" in line and "16384" in line)
    assert long.count("~") == 5


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--show", "nope"], "cost profile 'nope': No such file or directory; give the path"),
        (["--budget-s", "0"], "--budget-s is 0: give from 1 to 3600 seconds"),
        (["--budget-s", "nan"], "--budget-s is nan"),
        (["--report", "x.pdf"], "--report x.pdf: the name must end in .svg or .png"),
        (["--json", "/no/such/folder/x.json"], "there is no folder /no/such/folder"),
        (["--threads", "0"], "threads is 0: it must be at least 1"),
        (["--max-num-seqs", "0"], "max_num_seqs is 0: it must be at least 1"),
        (["--model", "/no/such/model"], "/no/such/model"),
        (["--max-model-len", "1"], "max_model_len is 1: it must be from 2"),
    ],
)
def test_what_the_user_can_mend_is_one_line_and_exit_code_2(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 2

    errors = capsys.readouterr().err
    assert errors.startswith("hfx.calibrate: ") and errors.count("\n") == 1
    assert message in errors


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"key": 3}, "key is 3, not an object"),
        ({"format_version": 99}, "format_version is 99"),
        ({"kv_bytes_per_token": "many"}, "kv_bytes_per_token is 'many'"),
    ],
)
def test_a_damaged_profile_is_refused_with_the_field(
    run: Run,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    change: dict[str, object],
    message: str,
) -> None:
    path = tmp_path / "damaged.json"
    path.write_text(json.dumps(json.loads(run.profile.read_text()) | change))

    assert main(["--show", str(path)]) == 2

    errors = capsys.readouterr().err
    assert "damaged.json" in errors and message in errors


@pytest.mark.parametrize(("spent_s", "left_s"), [(0.0, 54.0), (4.0, 50.0), (100.0, 30.0)])
def test_the_budget_is_for_everything_and_half_of_it_for_measuring(
    spent_s: float, left_s: float
) -> None:
    assert measuring_s(60.0, spent_s) == left_s


def test_help_says_what_it_does_without_loading_torch() -> None:
    code = (
        "import sys\nfrom hfx.calibrate.cli import main\n"
        "try: main(['--help'])\nexcept SystemExit as end: assert not end.code\n"
        "print(sorted({'torch', 'matplotlib', 'tqdm'} & set(sys.modules)))"
    )

    text = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    ).stdout

    assert text.splitlines()[-1] == "[]"
    assert "--budget-s" in text and "rtxpro6000-llama3.1-8b" in text and "examples:" in text
