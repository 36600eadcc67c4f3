"""The whole engine on the Triton back end, interpreted: the CPU's tokens, and nothing compiled
that the start has not."""

from __future__ import annotations

import asyncio
import random

import numpy as np
import pytest
import torch

from hfx.config import SchedulerConfig
from hfx.engine import LLM, AsyncEngine, StepBatch, StepOutput
from hfx.engine.accelerator import Accelerator
from hfx.engine.compilations import COMPILATIONS
from hfx.engine.device_executor import DeviceExecutor
from hfx.engine.equip_device import run_largest
from hfx.kernels import RaggedBatch
from hfx.request import FinishReason, Request, Sampling

from .conftest import VOCABULARY, Interpreted

CPU = torch.device("cpu")
PROMPT_TOKENS = (30, 26, 36, 1)  # the first two outgrow the pool while the third fills it


def prompt(tokens: int, seed: int = 0) -> list[int]:
    return np.random.default_rng(seed + tokens).integers(3, VOCABULARY, tokens).tolist()


def greedy(max_tokens: int) -> Sampling:
    return Sampling(temperature=0.0, max_tokens=max_tokens, ignore_eos=True)


def test_greedy_answers_are_the_cpus_with_chunked_prompts_cached_prefixes_and_preemption(
    interpreted: Interpreted, native: LLM
) -> None:
    prompts = [prompt(tokens) for tokens in PROMPT_TOKENS]
    again = [prompts[0]]

    here, there = (
        [*llm.generate(prompts, greedy(14)), *llm.generate(again, greedy(3))]
        for llm in (interpreted.llm, native)
    )

    assert [answer.token_ids for answer in here] == [answer.token_ids for answer in there]
    assert len({answer.token_ids for answer in here}) == 5
    assert here[-1].cached_tokens == there[-1].cached_tokens > 0
    stats = interpreted.llm._engine.stats()
    assert stats.preemptions > 0
    assert stats.failed_steps == 0
    # attention of prompts, decodes and both; reduction, norm, rotation, gate, sampler
    assert interpreted.compilations.counts == {"start": 8, "serving": 0}


def test_random_traffic_compiles_nothing(interpreted: Interpreted) -> None:
    chance = random.Random(2)
    llm = interpreted.llm
    serving = AsyncEngine(llm._engine, llm.model, SchedulerConfig(max_num_seqs=3))
    before = COMPILATIONS.counts["serving"]

    def request(index: int) -> Request:
        sampling = Sampling(
            max_tokens=chance.randrange(1, 4),
            temperature=chance.choice([0.0, 1.0]),
            top_p=chance.choice([1.0, 0.9]),
            top_k=chance.choice([0, 3]),
            frequency_penalty=chance.choice([0.0, 0.0, 0.5]),
            logprobs=chance.choice([None, None, 2]),
        )
        ids = prompt(chance.choice([1, 2, 7, 20, 40]), index)
        return Request(id=str(index), prompt_token_ids=tuple(ids), sampling=sampling)

    async def client(index: int) -> FinishReason | None:
        stream = serving.generate(request(index))
        patience = chance.choice([None, None, None, 1])
        reason, count = None, 0
        async for delta in stream:
            reason, count = delta.finish_reason, count + len(delta.token_ids)
            if patience is not None and count >= patience:
                stream.close()
        return reason

    async def soak() -> list[FinishReason | None]:
        async with asyncio.timeout(200):
            reasons = await asyncio.gather(*(client(index) for index in range(6)))
            await serving.drain(60)
        return reasons

    ended = [reason for reason in asyncio.run(soak()) if reason is not None]
    serving.close()

    assert len(ended) >= 3
    assert set(ended) <= {FinishReason.STOP, FinishReason.LENGTH}
    assert interpreted.compilations.counts["serving"] == 0
    assert COMPILATIONS.counts["serving"] == before


def test_a_shape_that_was_not_warmed_up_is_counted(interpreted: Interpreted) -> None:
    decoder = interpreted.llm.model.decoder
    caches = decoder.allocate_caches(3, 16)
    for cache in caches:
        cache.k.zero_()
        cache.v.zero_()
    batch = RaggedBatch(np.array([0, 1]), np.array([1]), np.array([[2, 1, 0]]), 16)
    before = interpreted.compilations.counts["serving"]

    decoder.forward(np.array([5]), batch, caches)  # a table whose stride is no multiple of 16
    once = interpreted.compilations.counts["serving"]
    decoder.forward(np.array([6]), batch, caches)

    assert once == before + 1
    assert interpreted.compilations.counts["serving"] == once


def test_a_seeded_draw_is_the_same_alone_in_company_and_again(interpreted: Interpreted) -> None:
    llm = interpreted.llm
    seeded = Sampling(temperature=1.0, top_p=0.95, seed=7, max_tokens=4, ignore_eos=True)
    other = Sampling(temperature=1.5, max_tokens=4, ignore_eos=True)
    ids = prompt(4)

    [alone] = llm.generate([ids], seeded)
    _, batched = llm.generate([prompt(6), ids], [other, seeded])
    [otherwise] = llm.generate([ids], Sampling(temperature=1.0, top_p=0.95, seed=8, max_tokens=4))

    assert alone.token_ids == batched.token_ids
    assert alone.token_ids != otherwise.token_ids


def test_rows_that_the_host_must_choose_stand_beside_those_that_the_device_does(
    interpreted: Interpreted,
) -> None:
    plain = greedy(3)
    told = Sampling(temperature=0.0, max_tokens=3, ignore_eos=True, logprobs=1)
    ids = prompt(5)

    device, host = interpreted.llm.generate([ids, ids], [plain, told])

    assert device.token_ids == host.token_ids
    assert device.logprobs is None
    assert host.logprobs is not None and host.logprobs[0].rank == 1


def test_the_step_that_sizes_the_pool_is_the_largest_there_can_be(
    interpreted: Interpreted, monkeypatch: pytest.MonkeyPatch
) -> None:
    executor, seen = interpreted.executor, []
    execute = DeviceExecutor.execute

    def watched(self: DeviceExecutor, batch: StepBatch) -> StepOutput:
        seen.append((len(batch.token_ids_T), len(batch.draws)))
        return execute(self, batch)

    monkeypatch.setattr(DeviceExecutor, "execute", watched)

    run_largest(interpreted.llm.model.decoder, executor.buckets, 16, 7, Accelerator.at(CPU))

    assert seen == [(7 + 3 + 1, 3)]  # of 12: prompts of 7 tokens at most, and a decode
