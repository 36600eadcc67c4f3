"""The benchmark of the simulator's own speed: what it counts, by which names."""

from benchmarks.simulate import Traffic, measured, summary, traffics
from hfx.request import Objective
from hfx.simulate import Job


def few_jobs() -> list[Job]:
    promise = Objective(ttft_s=1.0, tpot_s=0.1)
    return [Job.of(f"r{n}", 0.1 * (n + 1), 200, 5, promise) for n in range(20)]


def test_a_row_counts_the_requests_and_steps_of_one_run() -> None:
    row = measured(Traffic("few", 2, few_jobs), few_jobs(), "least_loaded+fcfs_2048", repeats=3)

    assert row["requests"] == 20 and row["joint"] == 1.0
    assert row["requests_per_cpu_s"] == 20 / row["cpu_s"]  # type: ignore[operator]
    assert row["steps_per_cpu_s"] >= row["requests_per_cpu_s"]  # type: ignore[operator]


def test_without_traces_the_mix_alone_is_measured() -> None:
    assert [traffic.name for traffic in traffics(None, quick=True)] == ["M1 at 28/s"]


def test_the_summary_names_our_policy_on_the_trace_plainly_and_leaves_peers_out() -> None:
    rows = [
        {"traffic": "azure2023_conv", "policy": "hfx", "cpu_s": 2.0, "requests_per_cpu_s": 7.0},
        {"traffic": "M1 at 28/s", "policy": "a+fcfs_2048", "cpu_s": 1.0, "requests_per_cpu_s": 3.0},
        {"traffic": "azure2023_conv", "policy": "vidur", "requests_per_cpu_s": 418.0},
    ]

    assert summary(rows) == {"requests_per_cpu_s": 7.0, "requests_per_cpu_s_m1_fcfs_2048": 3.0}
