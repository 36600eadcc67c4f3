"""The policy benchmark from end to end on a tiny setting, and how it goes on where it stopped."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks import policies, policies_plan, policies_pool
from benchmarks.policies_cases import Case, versions
from benchmarks.policies_elsewhere import elsewhere
from benchmarks.policies_plan import QUICK, SUITES, Group, Point, Suite
from benchmarks.policies_pool import Pool
from benchmarks.policies_rates import Search, rate_at
from benchmarks.policies_store import Store
from benchmarks.policies_table import Outcome, bootstrap
from hfx.bench.record import ROOT
from hfx.simulate.setup import PolicyName

TINY = replace(
    QUICK,
    groups=(Group("M1", replicas=2, loads=(1.0, 1.15)),),
    baselines=("least_loaded+fcfs_2048", "least_loaded+edf_1024"),
    seeds=1,
    requests=60,
    shortest_s=3.0,
    absolute_s=2.0,
    questions=3,
    rounds=(2, 1),
)
FROM_RUNS = {
    "baseline_ll_fcfs_2048_28",
    "baseline_rr_fcfs_512_28",
    "worst_joint_minus_best",
    "gap_closed_1.15",
    "fraction_of_clairvoyant_1.15",
    "collapse_gain_vs_rr",
    "ttft_vs_rr",
    "worst_class_1.0",
    "fraction_of_fluid_limit_1.15",
    "rate90_vs_best",
    "rate90_vs_best_tight",
}


def test_a_tiny_suite_runs_from_end_to_end_and_resumes_from_what_was_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(SUITES, "quick", TINY)
    out = tmp_path / "policies.json"
    command = ["--json", str(out), "--processes", "1", "--quiet", "--data", "", "--alone"]
    assert policies.main(command) == 0
    first, printed = json.loads(out.read_text()), capsys.readouterr().out
    assert set(first["summary"]) == FROM_RUNS
    assert first["machine"]["settings"]["lengths"] == "published statistics"
    points = [row for row in first["rows"] if row["part"] == "point"]
    assert [(row["slo_scale"], row["load"]) for row in points] == [
        (1.0, 1.0), (1.0, 1.15), (0.6, 1.0), (0.6, 1.15),
    ]  # fmt: skip
    for row in points:
        assert set(row["policies"]) == {"hfx", "clairvoyant", "fluid", *TINY.baselines}
        assert all(
            row["policies"][name]["joint"] <= row["policies"]["fluid"]["joint"] + 1e-9
            for name in ("hfx", *TINY.baselines)
        )
    assert out.with_suffix(".png").stat().st_size > 1000
    assert "hfx - best baseline" in printed

    def refuse(case: Case) -> dict[str, object]:
        raise AssertionError(f"{case} has been run before")

    monkeypatch.setattr(policies_pool, "run", refuse)
    lines = out.with_suffix(".jsonl").read_text().splitlines()
    assert policies.main(command) == 0
    second = json.loads(out.read_text())
    assert (second["rows"], second["summary"]) == (first["rows"], first["summary"])
    assert out.with_suffix(".jsonl").read_text().splitlines() == lines
    with pytest.raises(AssertionError, match="has been run before"):
        policies.main([*command, "--redo"])


def case(policy: str, rate: float = 5.0) -> Case:
    return Case(policy, "M1", 1.0, 1.0, 1, rate, 0, 2.0)


def test_runs_of_other_sources_or_settings_do_not_count(tmp_path: Path) -> None:
    path = tmp_path / "runs.jsonl"
    store = Store(path, ("base", "own"))
    with Pool(store, 1, quiet=True) as pool:
        pool.run([case("hfx"), case("least_loaded+fcfs_512")], "runs")
    with path.open("a") as file:
        file.write('{"case": {"policy": "hf')  # stopped in the middle of a line
    changed = Store(path, ("base", "own, changed"))
    assert changed.find(case("least_loaded+fcfs_512")) == store.find(case("least_loaded+fcfs_512"))
    assert changed.find(case("hfx")) is None
    assert Store(path, ("base", "other"), any_version=True).find(case("hfx")) is not None
    assert changed.missing([case("hfx"), case("hfx", 6.0), case("hfx")]) == [
        case("hfx"),
        case("hfx", 6.0),
    ]


def test_two_processes_give_the_figures_of_one(tmp_path: Path) -> None:
    cases = [case("hfx"), case("least_loaded+fcfs_512"), case("fluid")]
    stores = [Store(None, ("a", "b")), Store(None, ("a", "b"))]
    for store, processes in zip(stores, (1, 2), strict=True):
        with Pool(store, processes, quiet=True) as pool:
            pool.run(cases, "runs")
    for one in cases:
        assert stores[0].find(one) == stores[1].find(one) is not None


def test_the_version_of_baselines_does_not_depend_on_our_own_policy() -> None:
    baselines, own = versions(ROOT)
    assert baselines != own
    assert versions(ROOT) == (baselines, own)


def test_a_search_finds_the_rate_that_keeps_the_level() -> None:
    search = Search(0.9, start=3.0, most=20)
    while (rate := search.ask()) is not None:
        search.tell(rate, min(1.0, 1.3 - rate / 25))  # 0.9 at 10
    assert search.rate == pytest.approx(10.0, rel=0.01)
    assert search.asked < 12


def test_a_rate_beyond_what_was_measured_is_the_last_one_and_below_it_none() -> None:
    assert rate_at({1.0: 0.99, 2.0: 0.95}, 0.9) == 2.0
    assert rate_at({1.0: 0.8, 2.0: 0.7}, 0.9) is None
    assert rate_at({1.0: 1.0, 2.0: 0.8}, 0.9) == pytest.approx(1.5)


def test_figures_of_others_are_taken_by_name_and_what_fails_is_told(
    capsys: pytest.CaptureFixture[str],
) -> None:
    commands = {"benchmarks.nothing": ("a",), "benchmarks.policies_rates": ("b",)}
    assert elsewhere("", commands=commands) == {}
    told = capsys.readouterr().out
    assert "benchmarks.nothing is not there: no a" in told
    assert "benchmarks.policies_rates failed" in told  # it is no command, and writes nothing


def test_intervals_hold_the_mean_and_shrink_to_it_where_all_agree() -> None:
    low, high = bootstrap([0.8, 0.9, 1.0])
    assert 0.8 <= low < 0.9 < high <= 1.0
    assert bootstrap([0.7, 0.7]) == pytest.approx((0.7, 0.7))


@pytest.mark.parametrize("suite", SUITES.values(), ids=list(SUITES))
def test_suites_name_policies_that_exist_and_loads_that_the_summary_needs(suite: Suite) -> None:
    for name in suite.baselines:
        PolicyName.parse(name)
    assert len(set(suite.baselines)) == len(suite.baselines) >= 8
    assert {1.0, 1.15} <= {load for group in suite.groups for load in group.loads}
    assert policies_plan.policies(suite)[0] == "hfx"


def test_the_worst_class_is_by_mean_tpot_over_seeds() -> None:
    runs = [
        {"attainment_a": 0.9, "attainment_b": 0.4, "attainment_cumulative_a": 0.1},
        {"attainment_a": 0.5, "attainment_b": 0.8, "attainment_cumulative_a": 0.1},
    ]
    point = Point(Group("M1"), 1.0, 1.0, 9.0, 10.0)
    name, share = Outcome(point, {"hfx": runs}).worst_class("hfx", "attainment_")
    assert name == "b"
    assert share == pytest.approx(0.6)
