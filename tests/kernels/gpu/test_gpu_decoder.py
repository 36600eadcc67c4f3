"""A whole decoder on the Triton back end, interpreted, says what it says on the CPU's."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models
from transformers import LlamaConfig, LlamaForCausalLM

from hfx.config import ModelConfig
from hfx.kernels import RaggedBatch, select
from hfx.models import Decoder, load

PAGE_TOKENS, PAGES = 16, 4
PROMPTS = ([5, 9, 2, 77, 30, 8], [3], [60, 61, 62, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14])
OUTPUT_TOKENS = 5


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random Llama of one layer."""
    path = tmp_path_factory.mktemp("llama")
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=97,
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=128,
        initializer_range=0.3,
        bos_token_id=1,
        eos_token_id=2,
    )
    LlamaForCausalLM(config).save_pretrained(path)
    Tokenizer(models.WordLevel({f"t{i}": i for i in range(97)}, unk_token="t0")).save(
        str(path / "tokenizer.json")
    )
    return path


def greedy(decoder: Decoder) -> list[list[int]]:
    """The best tokens after each prompt; the last prompt joins while the others decode."""
    caches = decoder.allocate_caches(PAGES * len(PROMPTS), PAGE_TOKENS)
    for cache in caches:
        cache.k.fill_(torch.nan)
        cache.v.fill_(torch.nan)
    table_SC = np.random.default_rng(0).permutation(PAGES * len(PROMPTS)).reshape(-1, PAGES)
    lens_S = np.zeros(len(PROMPTS), np.int32)
    new: list[list[int]] = [list(prompt) for prompt in PROMPTS]
    said: list[list[int]] = [[] for _ in PROMPTS]
    for step in range(OUTPUT_TOKENS + 1):
        rows = np.arange(len(PROMPTS) if step else len(PROMPTS) - 1)
        counts = [len(new[row]) for row in rows]
        lens_S[rows] += counts
        starts = np.cumsum([0, *counts])
        batch = RaggedBatch(starts, lens_S[rows], table_SC[rows], PAGE_TOKENS)
        ids_T = np.concatenate([np.asarray(new[row]) for row in rows])
        hidden_TD = decoder.forward(ids_T, batch, caches)
        best_R = decoder.logits(hidden_TD[starts[1:] - 1]).argmax(dim=1).tolist()
        for row, token in zip(rows, best_R, strict=True):
            said[row].append(token)
            new[row] = [token]
    return said


def test_a_tiny_llama_says_the_same_tokens_as_on_the_cpu(folder):
    config = ModelConfig(model=str(folder), dtype="float32")

    interpreted = greedy(load(config, kernel_backend="triton").decoder)

    assert interpreted == greedy(load(config, kernel_backend="cpu").decoder)
    assert len({tuple(tokens) for tokens in interpreted}) == len(PROMPTS)


def test_it_is_selected_by_name_on_the_cpu_while_interpreting(operators):
    assert select("triton", dtype=torch.float16).name == "triton"
    assert select(dtype=torch.float16).name == "torch"
