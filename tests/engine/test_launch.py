"""What a launch reads from the machine, and refuses, before it loads anything."""

import os
from pathlib import Path
from typing import get_args

import pytest

from hfx.config import EngineConfig, Policy, SchedulerConfig
from hfx.cost import preset
from hfx.engine.equip import usable_cores
from hfx.engine.llm import engine_config
from hfx.engine.policy import admission_for, policy_for
from hfx.request import FinishReason, Request, Sampling
from hfx.scheduler import POLICIES, FirstComeFirstServed, SlackPolicy

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


def test_without_prices_the_policy_is_first_come_first_served_and_nothing_is_predicted(
    caplog: pytest.LogCaptureFixture,
) -> None:
    config = SchedulerConfig(max_num_seqs=3, max_num_batched_tokens=99)

    with caplog.at_level("INFO"):
        policy = policy_for(config, None)

    assert policy == FirstComeFirstServed(max_step_tokens=99, max_running=3)
    assert admission_for(config, None, policy) is None
    assert "cost_profile is off" in caplog.text


def test_admission_expects_the_outputs_that_the_policy_has_seen() -> None:
    config, cost = SchedulerConfig(), preset("h100-llama3.1-8b")
    policy = policy_for(config, cost)
    request = Request(id="a", prompt_token_ids=(1,), sampling=Sampling(max_tokens=500))

    for _ in range(100):
        policy.ended(request, 7, FinishReason.STOP)
    admission = admission_for(config, cost, policy)

    assert isinstance(policy, SlackPolicy)
    assert admission is not None
    assert admission.lengths.remaining(request, 0) < 20


def test_a_policy_that_needs_prices_and_has_none_is_refused() -> None:
    with pytest.raises(ValueError, match="set cost_profile to something else than off"):
        policy_for(SchedulerConfig(scheduling_policy="qoserve_like"), None)


def test_the_configuration_names_every_policy() -> None:
    assert set(get_args(Policy)) == set(POLICIES)


def test_options_find_their_part_of_the_configuration() -> None:
    config = engine_config(model="x", block_size=16, max_num_seqs=3, threads=1)

    assert (config.model.model, config.cache.block_size) == ("x", 16)
    assert (config.scheduler.max_num_seqs, config.threads) == (3, 1)


def test_no_threads_are_refused() -> None:
    with pytest.raises(ValueError, match="threads is 0"):
        EngineConfig(threads=0)
