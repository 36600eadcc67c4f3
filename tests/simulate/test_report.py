"""The report: its files, a page that holds every figure itself, and what a fleet did over time."""

import base64
import re
import sys
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import pytest

from hfx.simulate.cli import main
from hfx.simulate.fleet import Failure
from hfx.simulate.looks import DARK, LIGHT, palette
from hfx.simulate.output import grouped
from hfx.simulate.plots import draw
from hfx.simulate.report import reference
from hfx.simulate.scenario import Point, Scenario
from hfx.simulate.timeline import MOST_SAMPLES, Timeline
from hfx.simulate.words import described

POLICIES = "least_loaded+fcfs_2048,round_robin+fcfs_512"
FIGURES = ["attainment", "classes", "goodput", "latency", "timeline", "timeline-2"]
QUIET = lambda more, total: None  # noqa: E731


def test_a_report_is_a_page_that_needs_nothing_else(tmp_path: Path) -> None:
    folder = tmp_path / "report"
    command = ["--rate", "6", "--replicas", "2", "--seconds", "5", "--policy", POLICIES]

    assert main([*command, "--limits", "--jobs", "1", "--report", str(folder)]) == 0

    assert sorted(path.stem for path in folder.glob("*.png")) == FIGURES
    assert sorted(path.stem for path in folder.glob("*.svg")) == FIGURES
    page = (folder / "index.html").read_text()
    images = re.findall(r"data:image/svg\+xml;base64,([A-Za-z0-9+/=]+)", page)
    assert len(images) == 2 * len(FIGURES)  # for light pages and for dark ones
    for image in images:
        assert ElementTree.fromstring(base64.b64decode(image)).tag.endswith("svg")
    embedded = {base64.b64decode(image) for image in images}
    assert {path.read_bytes() for path in folder.glob("*.svg")} <= embedded
    without = re.sub(r"base64,[A-Za-z0-9+/=]+", "", page)
    assert not re.search(r"(src|srcset|href)=\"(?!data:|#)|url\(|@import|https?://", without)
    for words in ("M1 on 2 replicas", "What was promised", "fluid limit", *POLICIES.split(",")):
        assert words in without


def test_a_figure_is_the_same_bytes_each_time(tmp_path: Path) -> None:
    run = Scenario(horizon_s=3.0).run(Point("least_loaded+fcfs_2048", 4.0, 0), QUIET)
    paths = [tmp_path / name for name in ("a.svg", "b.svg")]
    for path in paths:
        draw(path, [run])

    assert paths[0].read_bytes() == paths[1].read_bytes()


def test_without_matplotlib_nothing_is_simulated_and_the_cure_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)

    with pytest.raises(SystemExit):
        main(["--rate", "6", "--report", str(tmp_path)])

    assert "--report needs matplotlib" in (shown := capsys.readouterr().err)
    assert "pip install 'hfx[plot]'" in shown
    assert list(tmp_path.iterdir()) == []


def test_a_policy_has_one_colour_and_no_two_share_it() -> None:
    looks = palette(["a", "b", "a", "c"])

    for theme in (LIGHT, DARK):
        assert len({look.colour(theme) for look in looks.values()}) == len(looks) == 3


def test_the_load_to_look_at_is_the_highest_that_is_served_well() -> None:
    scenario = Scenario(horizon_s=5.0)
    run = scenario.run(Point("least_loaded+fcfs_2048", 2.0, 0), QUIET)

    def at(rate: float, joint: float) -> object:
        summary = {**run.summary, "joint": joint}
        return replace(run, point=Point("p", rate, 0), summary=summary)

    well = grouped([at(2.0, 1.0), at(4.0, 0.9), at(8.0, 0.5)])  # type: ignore[list-item]
    badly = grouped([at(2.0, 0.8), at(4.0, 0.7)])  # type: ignore[list-item]

    assert [group.rate for group in reference(well)] == [4.0]
    assert [group.rate for group in reference(badly)] == [2.0]


def test_a_timeline_shows_who_was_there_and_what_waited() -> None:
    scenario = Scenario(replicas=3, horizon_s=12.0, failures=(Failure(4.0, 1, 4.0),))

    seen = scenario.run(Point("least_loaded+fcfs_2048", 12.0, 0), QUIET).timeline

    ready = dict(zip(seen["time_s"], seen["replicas"]["ready"], strict=True))
    assert {count for time, count in ready.items() if time < 3.9} == {3}
    assert {count for time, count in ready.items() if 4.1 < time < 7.9} == {2}
    assert {count for time, count in ready.items() if time > 8.1} == {3}
    assert max(seen["running"]) > 0 and seen["time_s"] == sorted(seen["time_s"])
    assert all(0 <= share <= 1 for share in seen["busy"]) and max(seen["busy"]) > 0.5


def test_a_long_run_is_looked_at_less_often() -> None:
    class Idle:
        queued = 3

        def __init__(self) -> None:
            self.replicas: dict[int, object] = {}

        def states(self) -> dict[str, int]:
            return {"ready": 1}

        def busy_s(self, now_s: float) -> float:
            return now_s / 2

    timeline, now_s = Timeline(10.0), 0.0
    while now_s < 100.0:
        now_s = timeline(now_s, Idle())  # type: ignore[arg-type]

    rows = timeline.plain()
    assert MOST_SAMPLES / 2 <= len(rows["time_s"]) <= MOST_SAMPLES
    assert len(rows["busy"]) == len(rows["queued"]) == len(rows["replicas"]["ready"])
    assert all(share == pytest.approx(0.5) for share in rows["busy"][1:])


def test_what_was_simulated_is_said_in_words() -> None:
    scenario = Scenario(
        workload="M3",
        replicas=4,
        slo_scale=0.5,
        arrivals="gamma",
        slow=((1, 2.0),),
        hints=0.5,
        profiles=("h100-llama3.1-8b", "a100-llama3-8b"),
        scaler="hpa",
        prefill_replicas=1,
    )
    run = replace(scenario, horizon_s=2.0, scaler=None).run(
        Point("least_loaded+fcfs_2048", 6.0, 0), QUIET
    )

    words = described(scenario, grouped([run]))

    assert words.title == "M3 on 1 to 16 replicas of h100-llama3.1-8b and a100-llama3-8b"
    assert "coefficient of variation of 2.5" in words.traffic
    assert "multiplied by 0.5" in words.traffic
    for part in (
        "Replica 1 takes 2 times",
        "scaler hpa",
        "1 of them serve prompts alone",
        "0.5 times",
    ):
        assert part in words.fleet
    assert ("agent", "10%", "0.15 s", "15 ms") in words.classes
    assert ("batch", "10%", "–", "300 s in all") in words.classes
