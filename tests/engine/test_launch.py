"""What a launch reads from the machine, and refuses, before it loads anything."""

import os
from pathlib import Path

import pytest

from hfx.config import EngineConfig, SchedulerConfig
from hfx.engine.equip import usable_cores
from hfx.engine.launch import policy_for
from hfx.engine.llm import engine_config
from hfx.scheduler import FirstComeFirstServed

CORES = len(os.sched_getaffinity(0))


@pytest.mark.parametrize(
    ("quota", "cores"),
    [("max 100000", CORES), ("100000 100000", 1), ("50000 100000", 1), ("99900000 100000", CORES)],
)
def test_cores_are_cut_by_the_quota_of_the_container(
    tmp_path: Path, quota: str, cores: int
) -> None:
    file = tmp_path / "cpu.max"
    file.write_text(quota)

    assert usable_cores(file) == cores


def test_without_a_quota_all_cores_of_the_affinity_count(tmp_path: Path) -> None:
    assert usable_cores(tmp_path / "missing") == CORES


def test_the_baseline_policy_has_the_configured_limits() -> None:
    config = SchedulerConfig(max_num_seqs=3, max_num_batched_tokens=99)

    assert policy_for(config) == FirstComeFirstServed(max_step_tokens=99, max_running=3)


def test_options_find_their_part_of_the_configuration() -> None:
    config = engine_config(model="x", block_size=16, max_num_seqs=3, threads=1)

    assert (config.model.model, config.cache.block_size) == ("x", 16)
    assert (config.scheduler.max_num_seqs, config.threads) == (3, 1)


def test_no_threads_are_refused() -> None:
    with pytest.raises(ValueError, match="threads is 0"):
        EngineConfig(threads=0)
