"""The measured run replayed, and a server's run set beside the simulator's: what is compared."""

import gzip
import os
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks import fidelity_emulated, fidelity_replay
from hfx.bench.outcome import Outcome
from hfx.cost import named
from hfx.request import Mix, Objective
from hfx.simulate import Job

DATA = Path(os.environ.get("HFX_DATA", "../shared/data"))
HEADER = (
    "arrival_s,input_tokens,output_tokens,prefix_hit_tokens_max,"
    "queued_s,scheduled_s,first_token_s,last_token_s"
)


@pytest.fixture
def profiles(tmp_path: Path) -> Path:
    """A run of two requests far apart, of which the second found 512 tokens of the first."""
    rows = ("0.0,1000,11,0,0.0,0.0,0.1,0.3", "9.0,1000,11,512,9.0,9.2,9.5,10.0")
    with gzip.open(tmp_path / fidelity_replay.FILE, "wt") as file:
        file.write("\n".join((HEADER, *rows)))
    return tmp_path


def test_a_run_is_read_as_times_from_arrival(profiles: Path) -> None:
    first, second = fidelity_replay.measured(profiles)

    assert (first.times.ttft_s, first.times.last_s) == (0.1, 0.3)
    assert first.times.tpot_s == pytest.approx(0.02)
    assert (second.hit_tokens, second.queue_s) == (512, pytest.approx(0.2))


def test_the_run_s_prefix_hits_are_computed_by_nobody(profiles: Path) -> None:
    run, cost = fidelity_replay.measured(profiles), named(fidelity_replay.PROFILE)

    found = fidelity_replay.replayed(run, cost)
    without = fidelity_replay.replayed(run, cost, respects_hits=False)

    assert found[1].ttft_s == pytest.approx(cost.step_s(Mix.one(488, 512)).mean_s)
    assert without[1].ttft_s == pytest.approx(cost.step_s(Mix.one(1000, 0)).mean_s)
    assert found[0] == without[0]


def test_errors_are_signed_fractions_of_what_was_measured(profiles: Path) -> None:
    run = fidelity_replay.measured(profiles)
    late = [replace(one.times, ttft_s=2 * one.times.ttft_s, last_s=11.0) for one in run]

    assert fidelity_replay.errors(run, late) == pytest.approx(
        {"tpot": 0.0, "makespan": 0.1, "ttft": 1.0, "ttft_at_once": 1.0}
    )


@pytest.mark.skipif(
    not (DATA / "profiles" / fidelity_replay.FILE).is_file(), reason="no HFX_DATA with profiles"
)
def test_the_simulator_replays_the_measured_vllm_run() -> None:
    run = fidelity_replay.measured(DATA / "profiles")

    found = fidelity_replay.errors(
        run, fidelity_replay.replayed(run, named(fidelity_replay.PROFILE))
    )

    assert abs(found["tpot"]) < 0.05 and abs(found["makespan"]) < 0.05
    assert abs(found["ttft"]) < 0.15


def answered(job: Job, ttft_s: float, tpot_s: float) -> Outcome:
    tokens = job.output_tokens
    latency_s = ttft_s + tpot_s * (tokens - 1)
    return Outcome(
        success=True,
        start_s=0.0,
        end_s=latency_s,
        scheduled_s=0.0,
        ttft_s=ttft_s,
        latency_s=latency_s,
        itls_s=(tpot_s,) * (tokens - 1),
        output_tokens=tokens,
        metrics={"time_to_first_token_ms": ttft_s * 1e3},
    )


def test_a_server_that_does_as_the_simulator_says_is_as_good() -> None:
    promise = Objective(ttft_s=0.5, tpot_s=0.05)
    jobs = [Job.of(f"{n}", 5.0 * n, 900, 20, promise) for n in range(4)]
    fates = fidelity_emulated.simulated(jobs, host_s=0.001)
    outcomes = [answered(fate.job, fate.ttft_s, fate.tpot_s) for fate in fates]

    same = fidelity_emulated.figures(fidelity_emulated.Pair(0.001, 0.0, outcomes, fates, 0.0))
    late = [answered(fates[0].job, 0.6, 0.01), *outcomes[1:]]
    worse = fidelity_emulated.figures(fidelity_emulated.Pair(0.001, 0.0, late, fates, 0.0))

    assert same["emulated_minus_simulated"] == 0 and same["ttft_p50_ratio"] == pytest.approx(1)
    assert same["attainment_simulated"] == 1
    assert worse["emulated_minus_simulated"] == 0.25
