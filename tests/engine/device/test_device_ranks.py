"""Two ranks on the Triton back end, interpreted: padded steps and replayed decodes, in each of
which they add up, give the CPU's tokens. Graphs of a real device have never held a collective
here."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from hfx.engine import LLM
from hfx.engine.lead_executor import LeadExecutor
from hfx.request import Sampling

from .conftest import OPTIONS, VOCABULARY


def test_two_ranks_give_the_cpus_tokens(folder: Path, native: LLM) -> None:
    options = {**OPTIONS, "max_num_batched_tokens": 4, "max_num_seqs": 2, "max_model_len": 32}
    llm = LLM(str(folder), kernel_backend="triton", tensor_parallel_size=2, **options)
    chance = np.random.default_rng(4)
    prompts = [chance.integers(3, VOCABULARY, tokens).tolist() for tokens in (18, 1)]
    sampling = Sampling(temperature=0.0, max_tokens=3, ignore_eos=True)

    here, there = (each.generate(prompts, sampling) for each in (llm, native))
    lead = llm._engine._executor
    assert isinstance(lead, LeadExecutor)
    llm.close()

    assert [answer.token_ids for answer in here] == [answer.token_ids for answer in there]
    assert lead._executor.captured is not None  # type: ignore[union-attr]
    assert lead._executor.captured.buckets == (1, 2)  # type: ignore[union-attr]
