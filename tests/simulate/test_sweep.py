"""Sweeps: in processes or here the same, stopped and gone on with the same, and told apart."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from hfx.simulate.ledger import Ledger
from hfx.simulate.output import grouped, highest_rates, record
from hfx.simulate.pool import run_all
from hfx.simulate.scenario import Point, Run, Scenario
from hfx.simulate.sweep import points, sweep

SCENARIO = Scenario(replicas=2, horizon_s=4.0)
POLICIES = ("least_loaded+fcfs_2048", "round_robin+fcfs_512")


def figures(runs: tuple[Run, ...]) -> list[Run]:
    """Without the only one that may differ."""
    return [replace(run, cpu_s=0.0) for run in runs]


def test_every_combination_is_run_once_rate_by_rate() -> None:
    found = points(["a", "b", "a"], [1.0, 2.0], range(2))

    assert found[:3] == [Point("a", 1.0, 0), Point("b", 1.0, 0), Point("a", 1.0, 1)]
    assert len(found) == 8


def test_processes_give_what_one_after_the_other_gives() -> None:
    every = points(POLICIES, [6.0, 12.0], range(1))

    alone, shared = sweep(SCENARIO, every), sweep(SCENARIO, every, jobs=2)

    assert [run.point for run in shared.runs] == every
    assert figures(alone.runs) == figures(shared.runs)


def test_what_is_known_is_not_run_again(tmp_path: Path) -> None:
    ledger = tmp_path / "kept" / "runs.jsonl"
    first = sweep(SCENARIO, points(POLICIES, [6.0], range(1)), ledger=ledger)

    second = sweep(SCENARIO, points(POLICIES, [6.0, 12.0], range(1)), ledger=ledger)
    third = sweep(SCENARIO, points(POLICIES, [6.0, 12.0], range(1)), ledger=ledger)

    assert (first.resumed, second.resumed, third.resumed) == (0, 2, 4)
    assert second.runs[:2] == first.runs and third.runs == second.runs
    assert len(ledger.read_text().splitlines()) == 4


def test_another_setting_or_another_file_is_another_run(tmp_path: Path) -> None:
    trace = tmp_path / "trace.csv"
    trace.write_text("arrival_s,input_tokens,output_tokens\n0,100,5\n1,100,5\n")
    ledger, at = tmp_path / "runs.jsonl", [Point(POLICIES[0], None, 0)]
    base = Scenario(trace=trace)
    sweep(base, at, ledger=ledger)

    assert sweep(base, at, ledger=ledger).resumed == 1
    assert sweep(replace(base, slo_scale=0.5), at, ledger=ledger).resumed == 0
    assert sweep(base, [replace(at[0], seed=1)], ledger=ledger).resumed == 0
    trace.write_text("arrival_s,input_tokens,output_tokens\n0,100,5\n1,100,6\n")
    assert sweep(base, at, ledger=ledger).resumed == 0


def test_a_line_that_was_cut_off_is_run_again(tmp_path: Path) -> None:
    ledger, every = tmp_path / "runs.jsonl", points(POLICIES, [6.0], range(1))
    whole = sweep(SCENARIO, every, ledger=ledger)
    ledger.write_bytes(ledger.read_bytes()[:-20])

    again = sweep(SCENARIO, every, ledger=ledger)

    assert again.resumed == 1 and figures(again.runs) == figures(whole.runs)
    assert sweep(SCENARIO, every, ledger=ledger).resumed == 2


def test_a_killed_sweep_goes_on_and_ends_the_same(tmp_path: Path) -> None:
    rates = "4,5,6,7,8,9,10,11,12,13,14,15"
    command = [sys.executable, "-m", "hfx.simulate", "--rate", rates, "--seconds", "10"]
    command += ["--replicas", "2", "--policy", ",".join(POLICIES), "--jobs", "2", "--json"]
    path = tmp_path / "killed.json"
    ledger = tmp_path / "killed.json.runs.jsonl"

    with subprocess.Popen([*command, str(path)]) as process:
        while not ledger.exists() or ledger.read_bytes().count(b"\n") < 2:
            assert process.poll() is None
            time.sleep(0.02)
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        process.send_signal(signal.SIGKILL)
    while any(is_alive(int(child)) for child in children):
        time.sleep(0.02)  # pytest's own limit ends this if they stay
    kept = ledger.read_bytes().count(b"\n")
    resumed = subprocess.run([*command, str(path)], capture_output=True, text=True, check=True)
    whole = tmp_path / "whole.json"
    subprocess.run([*command, str(whole), "--fresh"], capture_output=True, check=True)

    assert len(children) >= 2 and 2 <= kept < 24
    assert f"{kept} of 24 runs were in {ledger}" in resumed.stderr
    killed, straight = (json.loads(file.read_text()) for file in (path, whole))
    for part in ("rows", "means", "summary", "settings"):
        assert json.dumps(killed[part]) == json.dumps(straight[part])
    assert not Path(f"{whole}.runs.jsonl").exists()


def is_alive(process: int) -> bool:
    """Whether it runs; one that has ended and waits for its parent does not."""
    try:
        state = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


def test_what_goes_wrong_in_a_process_is_told_here() -> None:
    small = replace(SCENARIO, kv_tokens=128)

    with pytest.raises(RuntimeError, match="is the cache smaller than a request"):
        list(run_all(small, points(POLICIES, [6.0], range(1)), 2, lambda *_: None))


def test_a_process_that_dies_is_told_with_what_to_do() -> None:
    def kill(point: Point, more: int, total: int) -> None:
        me = os.getpid()
        for child in Path(f"/proc/{me}/task/{me}/children").read_text().split():
            if b"spawn_main" in Path(f"/proc/{child}/cmdline").read_bytes():
                os.kill(int(child), signal.SIGKILL)

    slow = replace(SCENARIO, horizon_s=60.0)
    with pytest.raises(RuntimeError, match=r"died: if memory ran out, give fewer --jobs"):
        list(run_all(slow, points(POLICIES, [12.0], range(1)), 2, kill))


def test_rates_of_a_goal_are_read_between_those_that_were_run() -> None:
    def run(policy: str, rate: float, joint: float) -> Run:
        return Run(Point(policy, rate, 0), 1.0, {"joint": joint, "requests": 1}, {}, {}, 1.0)

    falls = [run("falls", rate, joint) for rate, joint in ((10, 1.0), (20, 0.95), (30, 0.85))]
    holds = [run("holds", rate, 0.99) for rate in (10.0, 20.0)]

    assert highest_rates(grouped([*falls, *holds]), 0.9) == {"falls": pytest.approx(25.0)}


def test_one_point_has_its_figures_by_name_and_several_by_point(tmp_path: Path) -> None:
    one = sweep(SCENARIO, points(POLICIES[:1], [6.0], range(2)))
    two = sweep(SCENARIO, points(POLICIES, [6.0], range(1)))

    single, several = record({}, one.runs), record({}, two.runs)

    joint = [run.summary["joint"] for run in one.runs]
    assert single["summary"]["joint"] == pytest.approx(sum(joint) / 2)
    assert set(single["summary"]) == set(one.runs[0].summary)
    assert several["summary"]["round_robin+fcfs_512@6.joint"] == two.runs[1].summary["joint"]
    assert "cpu_s" not in json.dumps([single["rows"], single["summary"], several["means"]])
    for key in [
        "joint",
        "joint_cumulative",
        "worst_class",
        "attainment_agent",
        "rejected",
        "goodput_rps",
        "ttft_mean_s",
        "ttft_p50_s",
        "ttft_p99_s",
        "tpot_p50_s",
        "tpot_p99_s",
        "accelerator_s",
        "feasible_alone",
        "joint_of_feasible",
    ]:
        assert key in single["summary"]


def test_a_ledger_without_a_file_keeps_nothing(tmp_path: Path) -> None:
    with Ledger(None, SCENARIO) as ledger:
        assert ledger.known(points(POLICIES, [6.0], range(1))) == {}
