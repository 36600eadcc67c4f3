"""The command: what it prints and writes, and that the same command writes the same figures."""

import json
from pathlib import Path

import pytest

from hfx.simulate.cli import main
from hfx.simulate.setup import PolicyName

SHORT = ["--rate", "12", "--replicas", "2", "--seconds", "8", "--quiet"]


def test_the_same_command_gives_the_same_figures(tmp_path: Path) -> None:
    policies = ["--policy", "hfx", "--policy", "power_of_two+edf_512", "--noise", "1"]
    records = []
    for name in ("a.json", "b.json"):
        command = [*SHORT, *policies, "--jobs", "1", "--json", str(tmp_path / name)]
        assert main(command) == 0
        records.append(json.loads((tmp_path / name).read_text()))

    assert records[0]["rows"] == records[1]["rows"]
    assert records[0]["summary"] == records[1]["summary"]
    assert len(records[0]["rows"]) == 2 and len(records[0]["means"]) == 2
    assert records[0]["summary"]["hfx@12.joint"] == records[0]["means"][0]["joint"]


def test_a_report_shows_each_class_by_both_rules(capsys: pytest.CaptureFixture[str]) -> None:
    main([*SHORT, "--policy", "least_loaded+fcfs_2048"])

    shown = capsys.readouterr().out
    for words in ("mean TPOT", "every token", "agent", "worst class", "per CPU second"):
        assert words in shown


def test_a_fleet_may_be_mixed_slow_failing_and_wrong_about_itself(tmp_path: Path) -> None:
    path = tmp_path / "out.json"
    fleet = ["--profile", "h100-llama3.1-8b", "--profile", "rtxpro6000-llama3.1-8b"]
    trouble = ["--slow", "1:1.5", "--fail", "3:0:1", "--cost-error", "0.8", "--host-ms", "0.3"]

    main([*SHORT, *fleet, *trouble, "--hints", "2", "--json", str(path)])

    summary = json.loads(path.read_text())["summary"]
    assert 0 < summary["joint"] <= 1 and summary["preemptions"] > 0


def test_a_plot_is_drawn(tmp_path: Path) -> None:
    path = tmp_path / "plot.svg"

    main(
        [
            *SHORT,
            "--rate",
            "6,12",
            "--policy",
            "round_robin+fcfs_512",
            "--jobs",
            "1",
            "--plot",
            str(path),
        ]
    )

    assert "<svg" in path.read_text()


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("least_loaded+fcfs_2048", ("least_loaded", "fcfs", 2048)),
        ("round_robin+qoserve_like", ("round_robin", "qoserve_like", 2048)),
        ("hfx", ("hfx", "hfx", 2048)),
        ("hfx_reconstruction", ("least_loaded", "hfx_reconstruction", 2048)),
        ("hfx+qoserve_like_512", ("hfx", "qoserve_like", 512)),
    ],
)
def test_a_policy_has_a_dispatcher_a_step_policy_and_a_chunk(
    text: str, parts: tuple[str, str, int]
) -> None:
    name = PolicyName.parse(text)

    assert (name.dispatch, name.step, name.chunk_tokens) == parts


@pytest.mark.parametrize("text", ["fcfs_512", "least_loaded+best", "nobody+fcfs_512", "hfx+fcfs_x"])
def test_a_policy_that_is_none_is_refused(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main([*SHORT, "--policy", text])

    assert "must be one of" in (shown := capsys.readouterr().err) or "DISPATCH+STEP" in shown


def test_a_fleet_may_have_roles_and_grow(tmp_path: Path) -> None:
    path = tmp_path / "out.json"
    options = ["--policy", "least_loaded+fcfs_2048", "--json", str(path)]

    main([*SHORT, "--scaler", "static:3", "--cold-start", "2", *options])
    grown = json.loads(path.read_text())["summary"]
    main([*SHORT, "--prefill-replicas", "1", "--policy", "hfx", "--json", str(path)])
    split = json.loads(path.read_text())["summary"]
    main([*SHORT, *options])
    fixed = json.loads(path.read_text())["summary"]

    assert grown["requests"] == split["requests"] == fixed["requests"]
    assert grown["accelerator_s"] > fixed["accelerator_s"] and 0 < split["joint"] <= 1


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--rate", "fast"], "'fast' is not a number above 0, such as 28"),
        (["--slow", "1"], "'1' is not ID:X, such as 1:1.5"),
        (["--slow", "7:2"], "--slow names replica 7: there are 0 to 1"),
        (["--fail", "60"], "'60' is not AT:ID[:BACK], such as 60:0:30"),
        (["--prefill-replicas", "2"], "lower --prefill-replicas or raise --replicas"),
        (["--scaler", "best"], "scaler is 'best': it must be static:N or one of"),
        (["--scaler", "hpa", "--least", "20"], "give 0 <= least <= most"),
        (["--profile", "z9"], "give the path of a profile, or a preset"),
        (["--trace", "/nowhere.csv"], "/nowhere.csv: No such file or directory; give another path"),
        (["--data"], "--data names no folder and HFX_DATA is not set"),
        (["--seconds", "0.001"], "nothing arrives in 0.001 s: raise --rate or --seconds"),
        (["--plot", "figure.pdf"], "the name must end with .png or .svg"),
    ],
)
def test_a_wrong_value_is_refused_with_what_it_should_look_like(
    options: list[str],
    words: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    monkeypatch.delenv("HFX_DATA", raising=False)
    monkeypatch.chdir(tmp_path)

    with pytest.raises(SystemExit) as stopped:
        main([*SHORT, *options])

    assert stopped.value.code == 2
    assert words in " ".join(capsys.readouterr().err.split())
    assert list(tmp_path.iterdir()) == []
