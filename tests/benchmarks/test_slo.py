"""The multi-SLO benchmark without servers: its workloads, its bookkeeping, its arithmetic."""

import json
from dataclasses import dataclass

import pytest

from benchmarks.slo import forget, options_of
from benchmarks.slo_long import compared, gaps
from benchmarks.slo_results import OutOfTime, Results
from benchmarks.slo_runs import missed
from benchmarks.slo_servers import Policy, command, tiers_option
from benchmarks.slo_summary import rate_of, summary
from benchmarks.slo_workload import CLASSES, WARM_S, Floor, workload
from hfx.bench.outcome import Outcome
from hfx.bench.workload import TokenPool
from hfx.serve import tiers as server_tiers

FLOOR = Floor({"interactive": 0.1, "standard": 0.2, "batch": 0.4}, 0.01)
POOL = TokenPool(tuple(range(100, 900)))


def made(seed=0, rate=5.0, seconds=40.0):
    return workload(FLOOR, POOL, seed=seed, rate=rate, seconds=seconds)


def test_targets_are_multiples_of_the_measured_floor():
    interactive, batch = FLOOR.targets("interactive"), FLOOR.targets("batch")

    assert interactive.ttft_s == pytest.approx(CLASSES["interactive"].ttft * 0.1)
    assert interactive.tpot_s == pytest.approx(CLASSES["interactive"].tpot * 0.01)
    assert (batch.ttft_s, batch.tpot_s) == (None, None)
    assert batch.e2el_s == pytest.approx(CLASSES["batch"].deadline * (0.4 + 63 * 0.01))


def test_the_server_is_given_the_targets_that_answers_are_judged_by():
    (interactive, _, batch) = server_tiers.parse(tiers_option(FLOOR))

    assert interactive.ttft_s == pytest.approx(FLOOR.targets("interactive").ttft_s)
    assert batch.deadline_s == pytest.approx(FLOOR.targets("batch").e2el_s)


def test_a_seed_gives_every_policy_the_same_arrivals_and_prompts():
    ours, theirs = made().sent_to("hfx"), made().sent_to("priority")

    assert [p.content for p in ours] == [p.content for p in theirs]
    assert made().arrivals_s == made().arrivals_s
    assert made(seed=1).arrivals_s != made().arrivals_s


def test_a_higher_load_is_the_same_pattern_faster_with_prompts_of_its_own():
    slow, fast = made(rate=5.0), made(rate=10.0)

    count = len(slow.arrivals_s)
    slow_gaps = [b - a for a, b in zip(slow.arrivals_s, slow.arrivals_s[1:], strict=False)]
    fast_gaps = [b - a for a, b in zip(fast.arrivals_s, fast.arrivals_s[1:count], strict=False)]
    ratios = [a / b for a, b in zip(slow_gaps, fast_gaps, strict=True)]
    assert len(fast.arrivals_s) == 2 * count
    assert max(ratios) == pytest.approx(min(ratios))
    shared = {tuple(p.content) for p in slow.prompts} & {tuple(p.content) for p in fast.prompts}
    assert not shared  # a server that is measured at both must not find them cached


def test_arrivals_last_as_long_as_asked_and_the_mix_is_as_declared():
    load = made(rate=5.0, seconds=40.0)

    assert load.arrivals_s[-1] == pytest.approx(40.0 + WARM_S)
    for name, kind in CLASSES.items():
        mine = [prompt for prompt in load.prompts if prompt.tier == name]
        assert len(mine) == pytest.approx(kind.share * len(load.prompts), abs=1)
        assert all(
            kind.input_len * 0.5 <= len(prompt.content) <= kind.input_len * 1.5 for prompt in mine
        )


def test_only_who_reads_a_priority_is_sent_one_and_vllm_nothing_of_ours():
    bodies = {name: made().sent_to(name)[0].body for name in ("hfx", "priority", "vllm-cpu")}

    assert set(bodies["hfx"]) == {"service_tier"}
    assert set(bodies["priority"]) == {"service_tier", "priority"}
    assert set(bodies["vllm-cpu"]) == {"priority"}


def test_each_policy_gets_its_own_chunk_on_the_same_engine(tmp_path):
    words = command(Policy("edf", 512), 8400, tmp_path / "profile.json", FLOOR)

    assert words[words.index("--scheduling-policy") + 1] == "edf"
    assert words[words.index("--max-num-batched-tokens") + 1] == "512"


def load_row(policy, load, joint, *, seed=0, tokens=100.0, interactive=1.0, rate=None):
    return {
        "policy": policy,
        "load": load,
        "seed": seed,
        "rate": round(load * 2.0, 4) if rate is None else rate,
        "requests": 100,
        "slo_attainment": joint,
        "output_tok_s": tokens,
        "tiers": {"interactive": {"slo_attainment": interactive}},
    }


def measured() -> Results:
    results = Results(None)
    results.add("capacity", {"rate": 2.0, "chunk": 512})
    return results


def test_the_summary_compares_means_over_seeds_with_the_best_other_policy():
    results = measured()
    for seed, (ours, fcfs, edf) in enumerate([(0.9, 0.8, 0.9), (0.8, 0.7, 0.7)]):
        results.add("load", load_row("hfx", 1.0, ours, seed=seed, interactive=0.9 + 0.1 * seed))
        results.add("load", load_row("fcfs", 1.0, fcfs, seed=seed))
        results.add("load", load_row("edf", 1.0, edf, seed=seed))

    found = summary(results)

    assert found["joint_minus_best_1.0"] == pytest.approx(0.05)
    assert found["interactive_1.0"] == pytest.approx(0.95)
    assert "joint_minus_best_1.3" not in found


@pytest.mark.parametrize(("fcfs", "clairvoyant", "goal"), [(0.2, 0.8, 0.4), (0.6, 0.8, 0.85 * 0.8)])
def test_overload_is_measured_against_the_lesser_of_its_two_goals(fcfs, clairvoyant, goal):
    results = measured()
    results.add("load", load_row("hfx", 1.3, 0.5, tokens=95.0))
    results.add("load", load_row("fcfs", 1.3, fcfs, tokens=100.0))
    results.add("clairvoyant", {"load": 1.3, "seed": 0, "joint": clairvoyant})

    found = summary(results)

    assert found["overload_vs_goal"] == pytest.approx(0.5 / goal)
    assert found["throughput_vs_fcfs_1.3"] == pytest.approx(0.95)


def test_a_peer_that_kept_nothing_counts_as_half_a_request():
    results = measured()
    results.add("load", load_row("hfx", 1.0, 0.9))
    results.add("load", load_row("vllm-cpu", 1.0, 0.0))

    assert summary(results)["joint_vs_vllm_cpu_1.0"] == pytest.approx(0.9 / 0.005)


def test_runs_at_another_capacity_are_in_no_figure():
    results = measured()
    results.add("load", load_row("hfx", 1.0, 0.1, rate=1.7))
    results.add("load", load_row("fcfs", 1.0, 0.9))

    assert "joint_minus_best_1.0" not in summary(results)
    assert rate_of(results.find("capacity"), 1.3) == 2.6


def test_a_later_call_finds_what_an_earlier_one_kept_and_can_forget_it(tmp_path):
    path = tmp_path / "slo.json"
    Results(path).add("load", load_row("hfx", 1.0, 0.9))
    later = Results(path)
    later.add("load", load_row("fcfs", 1.0, 0.8))
    later.add("capacity", {"rate": 2.0, "chunk": 512})

    again = Results(path)
    forget(again, ["hfx"])

    assert [row["policy"] for row in again.all("load")] == ["fcfs"]
    assert again.find("capacity")["rate"] == 2.0
    assert len(json.loads(path.read_text())["rows"]) == 2
    assert not list(tmp_path.glob("*.partial"))


@pytest.mark.parametrize("argv", [["--parts", "speed"], ["--seconds", "long"], ["--loads", "x"]])
def test_a_wrong_option_is_told(argv, capsys):
    with pytest.raises(SystemExit):
        options_of(argv)
    assert argv[0] in capsys.readouterr().err


def test_out_of_time_is_no_error_of_a_run():
    assert issubclass(OutOfTime, Exception) and not issubclass(OutOfTime, RuntimeError)


def outcome(*, start=0.0, ttft=1.0, itls=(), ok=True, status=200, metrics=None):
    latency = ttft + sum(itls)
    return Outcome(
        success=ok,
        start_s=start,
        end_s=start + latency,
        scheduled_s=start,
        status=status,
        ttft_s=ttft,
        latency_s=latency,
        itls_s=tuple(itls),
        output_tokens=1 + len(itls),
        metrics=metrics or {},
    )


@dataclass
class Judged:
    tier: str
    targets: object


def test_misses_are_counted_by_tier_target_and_the_servers_cause():
    promise = Judged("interactive", FLOOR.targets("interactive"))
    told = {"slo": {"relegated": True, "targets": {"ttft_ms": {"missed_because": "queue"}}}}
    pairs = [
        (promise, outcome(ttft=9.0, metrics=told)),
        (promise, outcome(ttft=9.0)),
        (promise, outcome(ok=False, status=429)),
        (promise, outcome(ttft=0.01)),
    ]

    assert missed(pairs) == {
        "interactive tpot": {"refused": 1},
        "interactive ttft": {"queue, relegated": 1, "not told": 1, "refused": 1},
    }


def test_gaps_know_when_they_ended_and_after_how_many_tokens():
    first, second = gaps(outcome(start=10.0, ttft=1.0, itls=(0.5, 0.25)))

    assert (first.place, first.end_s, first.took_s) == (0, 11.5, 0.5)
    assert (second.place, second.end_s, second.took_s) == (1, 11.75, 0.25)


def test_a_long_prompt_is_judged_by_the_same_tokens_without_it():
    alone = outcome(itls=[0.1] * 15 + [0.2] * 15)  # gaps grow by themselves
    among = outcome(itls=[0.1] * 15 + [0.3] * 10 + [0.2] * 5)
    long = outcome(start=1.0 + 1.51, ttft=3.0)  # while the slow ten came

    found = compared([alone], [among], long)

    assert found["ratio"] == pytest.approx(1.5)
    assert found["ratio_to_before"] == pytest.approx(3.0)
    assert (found["gaps"], found["streaming"]) == (10, 1)


def test_chats_that_end_before_the_prompt_say_nothing():
    with pytest.raises(RuntimeError, match="raise CHAT_OUT"):
        compared([outcome()], [outcome(itls=[0.1])], outcome(start=5.0))
