"""Traffic: the published statistics come out, one seed is one traffic, traces are replayed."""

from pathlib import Path

import numpy as np
import pytest

from hfx.request import Objective
from hfx.simulate.arrivals import KINDS, Kind, arrivals_s
from hfx.simulate.lengths import AZURE_CODE, AZURE_CONV, AZURE_CONV_SHORT, Lengths
from hfx.simulate.workload import MIXES, generated, hinted, replayed


@pytest.mark.parametrize("kind", KINDS)
def test_every_process_has_the_rate_that_was_asked_for(kind: Kind) -> None:
    times = arrivals_s(np.random.default_rng(3), kind, 4.0, 36_000.0)

    assert times == sorted(times) and times[-1] < 36_000
    assert len(times) / 36_000 == pytest.approx(4, rel=0.08)


@pytest.mark.parametrize(("kind", "cv"), [("poisson", 1.0), ("gamma", 2.5)])
def test_gaps_vary_as_much_as_was_asked_for(kind: Kind, cv: float) -> None:
    gaps = np.diff(arrivals_s(np.random.default_rng(5), kind, 50.0, 2000.0, cv=2.5))

    assert gaps.std() / gaps.mean() == pytest.approx(cv, rel=0.05)


@pytest.mark.parametrize(
    ("lengths", "prompt", "output"),
    [(AZURE_CONV, 1155, 211), (AZURE_CODE, 2048, 27.9), (AZURE_CONV_SHORT, 321, 109)],
)
def test_lengths_have_the_means_of_the_trace(
    lengths: Lengths, prompt: float, output: float
) -> None:
    pairs = np.asarray(lengths.draw(np.random.default_rng(0), 40_000))

    assert pairs[:, 0].mean() == pytest.approx(prompt, rel=0.08)
    assert pairs[:, 1].mean() == pytest.approx(output, rel=0.15)


@pytest.mark.parametrize("mix", sorted(MIXES))
def test_a_mix_has_its_shares_and_a_scale_changes_targets_only(mix: str) -> None:
    jobs = generated(MIXES[mix], 40.0, 300.0, seed=2)
    tight = generated(MIXES[mix], 40.0, 300.0, seed=2, slo_scale=0.5)

    for class_, share in MIXES[mix]:
        own = [job for job in jobs if job.request.objective.tier == class_.name]
        assert len(own) / len(jobs) == pytest.approx(share, abs=0.03)
    for job, other in zip(jobs, tight, strict=True):
        assert job.request.arrival_s == other.request.arrival_s
        assert job.output_tokens == other.output_tokens
        if job.request.objective.ttft_s is not None:
            assert other.request.objective.ttft_s == 0.5 * job.request.objective.ttft_s
    assert jobs == generated(MIXES[mix], 40.0, 300.0, seed=2)
    assert jobs != generated(MIXES[mix], 40.0, 300.0, seed=3)


def test_a_trace_keeps_its_clock_or_is_played_at_a_rate(tmp_path: Path) -> None:
    path = tmp_path / "trace.csv"
    path.write_text("arrival_s,input_tokens,output_tokens,hash_ids\n3,600,5,7 8\n13,10,2,\n")

    own = replayed(path, Objective())
    fast = replayed(path, Objective(), rate=2.0)

    assert [job.request.arrival_s for job in own] == [0.0, 10.0]
    assert [job.request.arrival_s for job in fast] == [0.0, 1.0]
    assert own[0].hash_ids == (7, 8) and own[0].request.prompt_tokens == 600


def test_a_hint_is_the_true_length_times_a_factor() -> None:
    jobs = generated(MIXES["M1"], 5.0, 10.0, seed=0)

    assert [job.request.expected_output_tokens for job in hinted(jobs, 2.0)] == [
        2 * job.output_tokens for job in jobs
    ]
