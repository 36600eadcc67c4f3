"""Traffic: the published statistics come out, one seed is one traffic, traces are replayed."""

import os
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from hfx.request import Objective
from hfx.simulate.arrivals import DAY, KINDS, Kind, arrivals_s, clocked_s
from hfx.simulate.lengths import (
    ARXIV_SUMM,
    AZURE_CODE,
    AZURE_CONV,
    AZURE_CONV_SHORT,
    MOONCAKE,
    SHAREGPT_LONG,
    Lengths,
)
from hfx.simulate.workload import (
    BATCH,
    MIXES,
    SOURCES,
    clock_of,
    from_rows,
    generated,
    hinted,
    replayed,
)
from hfx.traces import read_trace

DATA = Path(os.environ.get("HFX_DATA", "../shared/data"))
needs_data = pytest.mark.skipif(
    not (DATA / "traces").is_dir(), reason=f"no traces at {DATA} (HFX_DATA)"
)


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
    [
        (AZURE_CONV, 1155, 211),
        (AZURE_CODE, 2048, 27.9),
        (AZURE_CONV_SHORT, 321, 109),
        (ARXIV_SUMM, 2588, 291),
        (MOONCAKE, 12035, 343),
        (SHAREGPT_LONG, 2365, 724),
    ],
)
def test_lengths_have_the_means_of_the_trace(
    lengths: Lengths, prompt: float, output: float
) -> None:
    pairs = np.asarray(lengths.draw(np.random.default_rng(0), 40_000))

    assert pairs[:, 0].mean() == pytest.approx(prompt, rel=0.08)
    assert pairs[:, 1].mean() == pytest.approx(output, rel=0.15)


def test_an_agents_requests_are_short_and_a_batchs_outputs_long() -> None:
    agent = np.asarray(AZURE_CONV_SHORT.draw(np.random.default_rng(0), 20_000))
    batch = np.asarray(SHAREGPT_LONG.draw(np.random.default_rng(0), 20_000))

    assert agent[:, 0].max() <= 512 and agent[:, 1].max() <= 256
    assert batch[:, 1].min() >= 512


@needs_data
@pytest.mark.parametrize("lengths", SOURCES, ids=["agent", "code", "chat", "summ", "long", "batch"])
def test_built_in_lengths_have_the_quantiles_of_the_published_rows(lengths: Lengths) -> None:
    rows = read_trace(DATA / "traces" / f"{SOURCES[lengths]}.csv.gz")
    if lengths is AZURE_CONV_SHORT:
        rows = [row for row in rows if row.input_tokens <= 512 and row.output_tokens <= 256]
    if lengths is SHAREGPT_LONG:
        rows = [row for row in rows if row.output_tokens >= 512]
    drawn = np.asarray(lengths.draw(np.random.default_rng(1), 60_000))

    for column, own in enumerate(np.asarray([(r.input_tokens, r.output_tokens) for r in rows]).T):
        for share in (25, 50, 75, 90, 99):
            assert np.percentile(drawn[:, column], share) == pytest.approx(
                np.percentile(own, share), rel=0.1, abs=3
            )


@needs_data
def test_lengths_may_be_the_traces_own_rows() -> None:
    jobs = generated(from_rows(MIXES["M3"], DATA), 40.0, 60.0, seed=0)
    published = {
        name: {(row.input_tokens, row.output_tokens) for row in read_trace(path)}
        for name in ("azure2023_conv", "mooncake_conversation")
        for path in [DATA / "traces" / f"{name}.csv.gz"]
    }

    for job in jobs:
        pair = (job.request.prompt_tokens, job.output_tokens)
        if job.request.objective.tier in ("chat", "agent"):
            assert pair in published["azure2023_conv"]
        if job.request.objective.tier == "agent":
            assert pair[0] <= 512 and pair[1] <= 256
        if job.request.objective.tier == "summ":
            assert pair in published["mooncake_conversation"]
        if job.request.objective.tier == "batch":
            assert pair[1] >= 512


def test_a_folder_without_the_traces_is_refused_with_the_cure(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"has no azure2023_conv.csv.gz.*leave --data out"):
        from_rows(MIXES["M1"], tmp_path)


def test_an_on_off_source_is_as_bursty_as_the_published_one() -> None:
    # Azure's code trace: 2.57/s for 58 minutes, gaps vary by 13, 10 minutes are empty
    rng = np.random.default_rng(0)
    hours = [arrivals_s(rng, "onoff", 2.57, 3436.0) for _ in range(20)]
    gaps = [np.diff(hour) for hour in hours]
    empty = [57 - len({int(time // 60) for time in hour if time < 3420}) for hour in hours]

    assert np.median([gap.std() / gap.mean() for gap in gaps]) == pytest.approx(13, rel=0.15)
    assert 4 < np.mean(empty) < 13
    assert 120 < np.median([gap.max() for gap in gaps]) < 260


def test_a_day_rises_and_falls_as_published() -> None:
    times = arrivals_s(np.random.default_rng(0), "diurnal", 200.0, 1440.0, day_s=1440.0)
    windows = np.bincount([int(time // 10) for time in times])

    assert np.corrcoef(windows, DAY)[0, 1] > 0.95
    assert windows.max() / windows.mean() == pytest.approx(max(DAY) / np.mean(DAY), rel=0.1)


def test_arrivals_keep_a_clocks_proportions_at_another_rate() -> None:
    times = clocked_s([0.0, 1.0, 1.5, 4.0], 0.5, 13.0)

    assert times == pytest.approx([0.0, 1.5, 2.25, 6.0, 7.5, 8.25, 12.0])


def test_a_mix_on_a_traces_clock_has_its_shares_and_its_bursts() -> None:
    clock = [n + 0.01 * k for n in range(50) for k in range(4)]
    jobs = generated(MIXES["M1"], 40.0, 250.0, seed=1, clock_s=clock)
    gaps = np.diff([job.request.arrival_s for job in jobs])

    assert len(jobs) == pytest.approx(10_000, rel=0.01)
    assert gaps.std() / gaps.mean() == pytest.approx(np.std(np.diff(clock)) / 0.25, rel=0.05)
    chat = [job for job in jobs if job.request.objective.tier == "chat"]
    assert len(chat) / len(jobs) == pytest.approx(0.4, abs=0.02)


def test_a_rounded_clock_is_spread_over_its_ticks(tmp_path: Path) -> None:
    path = tmp_path / "mooncake.jsonl"
    path.write_text(
        "".join(
            f'{{"timestamp": {3000 * (n // 10)}, "input_length": 9, "output_length": 2}}\n'
            for n in range(600)
        )
    )

    times = [job.request.arrival_s for job in replayed(path, Objective(), seed=4)]
    literal = replayed(path, Objective(), jitter_s=0.0)

    assert len(set(times)) == 600 and times != sorted(times)
    assert all(3 * (n // 10) <= time < 3 * (n // 10) + 3 for n, time in enumerate(times))
    assert [job.request.arrival_s for job in literal] == [3.0 * (n // 10) for n in range(600)]
    assert times == [job.request.arrival_s for job in replayed(path, Objective(), seed=4)]
    assert all(a <= b for a, b in pairwise(clock_of(path)))


def test_lengths_alone_are_no_clock(tmp_path: Path) -> None:
    path = tmp_path / "lengths.csv"
    path.write_text("input_tokens,output_tokens\n5,6\n")

    with pytest.raises(ValueError, match="no clock"):
        clock_of(path)


def test_batches_have_a_deadline_alone() -> None:
    assert BATCH.objective.deadline_s == 600.0
    assert BATCH.objective.ttft_s is None and BATCH.objective.tpot_s is None


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
