"""Ranking configurations: which are tried, which wins, what is written; interpreted."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from math import inf
from pathlib import Path

import pytest
import torch

from benchmarks import rank_configs, rank_rules
from benchmarks.target_compiler import CORES
from hfx.kernels import AttentionSpec
from hfx.kernels.gpu.configs import KINDS, RULES, launch_from

CPU = torch.device("cpu")
TINY = AttentionSpec(4, 2, 64, 16, torch.bfloat16)


def test_the_file_is_written_as_it_was_read():
    text = RULES.read_text()

    assert rank_rules.text_of(json.loads(text)).strip() == text.strip()


@pytest.mark.parametrize("architecture", CORES)
@pytest.mark.parametrize("kind", KINDS)
def test_candidates_fit_the_shared_memory_of_their_architecture(architecture, kind):
    core = CORES[architecture]
    entries = list(rank_rules.candidates(architecture, kind, 256))

    assert len(entries) > 10
    assert len({json.dumps(entry) for entry in entries}) == len(entries)
    for entry in entries:
        launch = launch_from(entry, AttentionSpec(32, 8, 128, 64, torch.bfloat16))
        buffers = 2 * launch.keys * 256 * rank_rules.BUFFERS[launch.stages]
        assert buffers * launch.programs_per_core < core.shared_bytes
        assert (launch.large_rows > 0) == (kind != "decode")
        assert (launch.small_rows > 0) == (kind != "prompt")
        assert not (launch.use_descriptors and architecture.startswith("gfx"))


def test_those_candidates_are_tried_that_change_least():
    present = {"large": [64, 32], "warps": 4, "stages": 2, "programs_per_core": 2}
    entries = list(rank_rules.candidates("sm_80", "prompt", 128))

    found = rank_rules.nearest(entries, present, 20)

    assert found[0] == present and found.count(present) == 1
    changed = [sum(entry[key] != present[key] for key in present) for entry in found]
    assert changed == sorted(changed) and len(found) == 21 and changed[:6] == [0, 1, 1, 1, 1, 1]


def test_what_is_present_gives_way_to_more_than_noise():
    times_s = {0: [1.0, 4.0], 1: [1.0, 1.0], 2: [0.5, 8.0], 3: [inf, 0.9]}
    found = rank_rules.scores(times_s)

    assert found[1] == pytest.approx((2 * 10 / 9) ** 0.5)
    assert rank_rules.winner(found, present=0) == 1
    assert rank_rules.winner({0: 1.02, 1: 1.0}, present=0) == 0
    assert rank_rules.winner({0: 1.04, 1: 1.0}, present=0) == 1


def test_an_architecture_without_rules_gets_its_own_before_those_of_all_others():
    rules = json.loads(RULES.read_text())
    entry = {"small_keys": 64, "warps": 4, "stages": 5, "programs_per_core": 2}

    known = rank_rules.with_entry(rules, "sm_90", "decode", 256, entry)
    new = rank_rules.with_entry(rules, "sm_75", "decode", 512, entry)

    assert list(known) == list(rules)
    assert known["sm_90"][1]["decode"] == entry
    assert known["sm_90"][0] == rules["sm_90"][0]
    assert list(new)[-2:] == ["sm_75", "other"]
    assert [rule["head_bytes"] for rule in new["sm_75"]] == [128, 256, 512, 1024]
    assert new["sm_75"][2]["decode"] == entry
    assert new["sm_75"][2]["prompt"] == rules["other"][2]["prompt"]
    assert new["other"] == rules["other"]


def test_a_device_is_ranked_and_its_rules_are_written(operators_on, tmp_path):
    operators = operators_on("sm_90")
    tiny = [
        rank_configs.Shape("decode", TINY, ((1, 20), (1, 3))),
        rank_configs.Shape("prompt", TINY, ((20, 5),)),
    ]
    rules = json.loads(RULES.read_text())

    found, rows = rank_configs.rerank(rules, operators, CPU, tiny, rounds=1, limit=2)

    assert [(row["kernel"], row["architecture"]) for row in rows] == (
        [("decode", "sm_90")] * 3 + [("prompt", "sm_90")] * 3
    )
    for kind in ("decode", "prompt"):
        ranked = [row for row in rows if row["kernel"] == kind]
        relative = [row["relative"] for row in ranked]
        assert relative == sorted(relative)
        assert sum(row["is_present"] for row in ranked) == 1
        assert all(row["us"][0] > 0 and row["reason"] is None for row in ranked)
    written = tmp_path / "configs.json"
    written.write_text(rank_rules.text_of(found))
    assert json.loads(written.read_text()) == found
    assert {name: own for name, own in found.items() if name != "sm_90"} == {
        name: own for name, own in rules.items() if name != "sm_90"
    }


def test_an_entry_that_fails_or_is_wrong_is_not_timed(operators_on, monkeypatch):
    bench = rank_configs.Bench(
        operators_on("sm_90"), CPU, rank_configs.Shape("decode", TINY, ((1, 20),))
    )
    good = {"small_keys": 16, "warps": 4, "stages": 1, "programs_per_core": 1}
    odd = good | {"small_keys": 24}  # no block has a length that isn't a power of two

    rows, best = rank_configs.rank([bench], [odd, good], rounds=1)
    assert best == 1
    assert rows[0]["relative"] == 1 and rows[1]["us"] == [None]

    monkeypatch.setattr(bench, "expected", bench.expected + 1)
    assert str(bench.complaint(good)).startswith("off by")


def test_without_a_gpu_it_says_so_and_changes_nothing():
    before = RULES.read_text()
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}

    found = subprocess.run(
        [sys.executable, "-m", "benchmarks.rank_configs", "--write"],
        env=environment | {"CUDA_VISIBLE_DEVICES": ""},
        cwd=Path(__file__).parents[3],
        capture_output=True,
        text=True,
        timeout=120,
    )

    assert found.returncode == 0, found.stderr
    assert "no GPU" in found.stdout
    assert RULES.read_text() == before
