"""An emulated device: how long its steps take, what it says, and what it is built from."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from hfx.config import CacheConfig, CostConfig, EngineConfig, ModelConfig
from hfx.cost import StepCost, preset
from hfx.engine import build_engine
from hfx.engine.batch import StepBatch
from hfx.engine.draw import Draw
from hfx.engine.emulated import EmulatedExecutor
from hfx.request import Mix, Request, Sampling

PROFILE = "rtxpro6000-llama3.1-8b"
EIGHT_DECODES = Mix.of((1, 900) for _ in range(8))


@pytest.fixture(scope="module")
def cost() -> StepCost:
    return preset(PROFILE)


def batch(mix: Mix = EIGHT_DECODES, *draws: Draw) -> StepBatch:
    none = np.zeros(0, dtype=np.int64)
    small = np.zeros(0, dtype=np.int32)
    return StepBatch(none, small, small, np.zeros((0, 0), dtype=np.int32), none, draws, mix)


def draw(index: int, *forbidden: int) -> Draw:
    return Draw(Sampling(), "seed", index, forbidden)


class Bed:
    """A clock whose sleepers are woken late, each by what is next in `late_s`."""

    def __init__(self, *late_s: float) -> None:
        self.now = 10.0
        self.late_s = list(late_s)

    def now_s(self) -> float:
        return self.now

    def wait(self, seconds: float) -> None:
        self.now += seconds + (self.late_s.pop(0) if self.late_s else 0.0)

    def device(self, cost: StepCost) -> EmulatedExecutor:
        return EmulatedExecutor(cost, [1, 2, 3], now_s=self.now_s, wait=self.wait)


def test_a_step_takes_as_long_as_the_profile_says_from_when_it_is_handed_over(
    cost: StepCost,
) -> None:
    bed = Bed()
    device, took_s = bed.device(cost), cost.step_s(EIGHT_DECODES).mean_s

    device.execute(batch())
    first = bed.now
    bed.now += 0.004  # the host computes: the device is idle
    device.execute(batch())

    assert first == pytest.approx(10.0 + took_s)
    assert bed.now == pytest.approx(10.0 + 2 * took_s + 0.004)


def test_what_its_host_overslept_is_no_step_s_time_and_does_not_add_up(cost: StepCost) -> None:
    steps, late_s = 50, 0.0007
    bed = Bed(*[late_s] * steps)
    device, took_s = bed.device(cost), cost.step_s(EIGHT_DECODES).mean_s

    for _ in range(steps):
        device.execute(batch())

    assert bed.now == pytest.approx(10.0 + steps * took_s + late_s)
    assert device.late_s == pytest.approx(steps * late_s)


def test_a_device_that_was_idle_owes_nothing(cost: StepCost) -> None:
    bed = Bed(0.005)
    device, prompt = bed.device(cost), Mix.one(500, 0)

    device.execute(batch())
    begins = bed.now  # all are done; then somebody comes
    device.execute(batch(prompt))

    assert bed.now == pytest.approx(begins + cost.step_s(prompt).mean_s)


def test_a_step_is_never_shortened_to_less_than_nothing(cost: StepCost) -> None:
    bed = Bed(3.0)
    device = bed.device(cost)

    device.execute(batch())
    woken = bed.now
    device.execute(batch())

    assert bed.now == woken  # a whole step is owed, and no more than that


def test_its_tokens_come_in_turn_and_leave_out_what_is_forbidden(cost: StepCost) -> None:
    device = Bed().device(cost)

    output = device.execute(
        batch(EIGHT_DECODES, draw(0), draw(1), draw(4), draw(1, 2), draw(2, 3, 1), draw(0, 1, 2, 3))
    )

    assert [sampled.token_id for sampled in output.sampled] == [1, 2, 2, 3, 2, 1]


def test_without_tokens_there_is_no_output(cost: StepCost) -> None:
    with pytest.raises(ValueError, match="tokens is empty"):
        EmulatedExecutor(cost, [])


def config(**options: Any) -> EngineConfig:
    return EngineConfig(device=f"emulated:{PROFILE}", **options)


def test_an_engine_says_plain_words_in_the_time_of_the_profile() -> None:
    engine, model = build_engine(config())
    prompt = tuple(model.tokenizer.encode("What is the capital of Japan?"))
    engine.add(Request(id="one", prompt_token_ids=prompt, sampling=Sampling(max_tokens=30)))

    deltas = []
    while engine.has_work:
        deltas += engine.step()

    text = "".join(delta.text for delta in deltas)
    assert text.startswith(" This answer was made up: the device that serves it is emulated")
    assert sum(len(delta.token_ids) for delta in deltas) == 30
    engine.audit()


@pytest.mark.parametrize(
    ("options", "blocks", "length"),
    [
        ({}, 500_000 // 64, 131_072),
        ({"cache": CacheConfig(num_blocks_override=100)}, 100, 6_400),
        ({"cache": CacheConfig(kv_cache_memory_bytes=1 << 30, block_size=16)}, 512, 8_192),
        ({"model": ModelConfig(max_model_len=400_000)}, 500_000 // 64, 400_000),
    ],
)
def test_the_cache_and_the_context_are_the_profile_s_or_what_is_asked_for(
    options: dict[str, Any], blocks: int, length: int
) -> None:
    engine, _ = build_engine(config(**options))

    assert (engine.pool.total, engine.max_model_len) == (blocks, length)


def test_prices_are_the_profile_s_unless_others_are_named() -> None:
    own = build_engine(config())[0].cost
    other = build_engine(config(cost=CostConfig(cost_profile="h100-llama3.1-8b")))[0].cost
    none = build_engine(config(cost=CostConfig(cost_profile="off")))[0].cost

    assert own is not None and other is not None and none is None
    assert own.model == preset(PROFILE) and other.model == preset("h100-llama3.1-8b")
    assert own.origin.kind == other.origin.kind == "emulated"


@pytest.mark.parametrize(
    ("made", "message"),
    [
        (lambda: EngineConfig(device="emulated:"), "device is 'emulated:': it must be auto, cpu"),
        (lambda: EngineConfig(device="tpu"), "device is 'tpu': it must be auto, cpu"),
        (lambda: EngineConfig(device="emulated:nope"), "cost profile 'nope': No such file"),
        (
            lambda: config(cache=CacheConfig(memory_utilization=0.5)),
            "memory_utilization is 0.5, and an emulated device has neither memory nor kernels",
        ),
        (lambda: config(kernel_backend="cpu"), "kernel_backend is cpu, and an emulated device"),
        (
            lambda: config(cost=CostConfig(cost_profile="calibrate")),
            "cost_profile is calibrate: an emulated device is as fast as its profile says",
        ),
        (
            lambda: config(cache=CacheConfig(kv_cache_memory_bytes=1000)),
            "kv_cache_memory_bytes is 1000: a block of 64 tokens takes 8388608",
        ),
        (
            lambda: config(model=ModelConfig(max_model_len=500_001)),
            "max_model_len is 500001: it must be from 2 to 499968",
        ),
    ],
)
def test_what_an_emulated_device_cannot_do_is_said(
    made: Callable[[], EngineConfig], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        build_engine(made())
