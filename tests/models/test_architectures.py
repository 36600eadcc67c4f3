"""Each architecture's logits against transformers' on small random weights, in ragged steps."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from hfx.config import ModelConfig
from hfx.models import load

VOCABULARY = 311
LENGTHS = (1, 16, 17, 45)  # one token, a page, one more, and several
CHUNKS = (13, 1, 1, 16, 5)  # so that steps mix chunks of prompts with single tokens
SMALL = {
    "vocab_size": VOCABULARY,
    "hidden_size": 128,
    "intermediate_size": 192,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "bos_token_id": 1,
    "eos_token_id": 2,
}


@dataclass(frozen=True)
class Case:
    config: type
    model: type
    options: dict[str, Any] = field(default_factory=dict)
    dtype: torch.dtype = torch.float32


LLAMA3_ROPE = {
    "rope_type": "llama3",
    "rope_theta": 10000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
YARN_ROPE = {
    "rope_type": "yarn",
    "rope_theta": 10000.0,
    "factor": 4.0,
    "original_max_position_embeddings": 64,
}
CASES = {
    "llama with llama3 rope": Case(
        LlamaConfig, LlamaForCausalLM, {"rope_parameters": LLAMA3_ROPE, "rms_norm_eps": 1e-5}
    ),
    "llama, tied, as SmolLM2": Case(
        LlamaConfig, LlamaForCausalLM, {"tie_word_embeddings": True, "num_key_value_heads": 1}
    ),
    "llama with every bias": Case(
        LlamaConfig, LlamaForCausalLM, {"attention_bias": True, "mlp_bias": True}
    ),
    "llama stored as float16": Case(LlamaConfig, LlamaForCausalLM, dtype=torch.float16),
    "llama with linear rope": Case(
        LlamaConfig, LlamaForCausalLM, {"rope_parameters": {"rope_type": "linear", "factor": 2.0}}
    ),
    "llama with dynamic rope": Case(
        LlamaConfig, LlamaForCausalLM, {"rope_parameters": {"rope_type": "dynamic", "factor": 2.0}}
    ),
    "mistral with a window": Case(MistralConfig, MistralForCausalLM, {"sliding_window": 21}),
    "mistral without a window": Case(MistralConfig, MistralForCausalLM, {"sliding_window": None}),
    "qwen2 with biases and yarn rope": Case(
        Qwen2Config, Qwen2ForCausalLM, {"rope_parameters": YARN_ROPE}
    ),
    "qwen2 with a window in all layers": Case(
        Qwen2Config,
        Qwen2ForCausalLM,
        {"use_sliding_window": True, "sliding_window": 21, "max_window_layers": 0},
    ),
    "qwen3 with heads wider than its width": Case(
        Qwen3Config, Qwen3ForCausalLM, {"head_dim": 64, "tie_word_embeddings": True}
    ),
}


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], tuple[Path, Any]]:
    """(folder, transformers' model in float32 of what the folder holds) of a case, made once."""
    made: dict[str, tuple[Path, Any]] = {}

    def make(name: str) -> tuple[Path, Any]:
        if name not in made:
            made[name] = _save(CASES[name], tmp_path_factory.mktemp("model"))
        return made[name]

    return make


def _save(case: Case, folder: Path) -> tuple[Path, Any]:
    torch.manual_seed(7)
    model = case.model(case.config(**{**SMALL, **case.options})).eval()
    for name, parameter in model.named_parameters():
        # As made, biases are 0, norms 1 and attention flat: nothing would show if one were ignored.
        spread = 0.3 if "norm" in name or "bias" in name else 0.15
        parameter.data.normal_(1.0 if "norm" in name else 0.0, spread)
    model.to(case.dtype).save_pretrained(folder, max_shard_size="200KB")
    Tokenizer(models.WordLevel({str(i): i for i in range(VOCABULARY)}, "0")).save(
        str(folder / "tokenizer.json")
    )
    return folder, case.model.from_pretrained(folder, dtype=torch.float32).eval()


def _prompts() -> list[list[int]]:
    rng = np.random.default_rng(3)
    return [rng.integers(0, VOCABULARY, length).tolist() for length in LENGTHS]


@torch.inference_mode()
def _expected(model: Any, prompts: list[list[int]]) -> list[torch.Tensor]:
    return [model(torch.tensor([ids])).logits[0].float() for ids in prompts]


@pytest.mark.parametrize("name", CASES)
def test_float32_logits_are_those_of_transformers(
    name: str, saved: Any, kernel_backend: str, chunked_logits: Callable[..., Any]
) -> None:
    folder, reference = saved(name)
    model = load(ModelConfig(model=str(folder), dtype="float32"), kernel_backend=kernel_backend)
    prompts = _prompts()

    found = chunked_logits(model.decoder, prompts, CHUNKS)

    for logits, expected in zip(found, _expected(reference, prompts), strict=True):
        assert expected.std() > 0.5  # else an absolute tolerance would prove little
        torch.testing.assert_close(logits, expected, atol=2e-4, rtol=2e-4)


@pytest.mark.parametrize("name", CASES)
def test_bfloat16_logits_are_as_near_to_float32_as_those_of_transformers(
    name: str, saved: Any, quick_backend: str, chunked_logits: Callable[..., Any]
) -> None:
    folder, reference = saved(name)
    model = load(ModelConfig(model=str(folder)), kernel_backend=quick_backend)
    rounded = CASES[name].model.from_pretrained(folder, dtype=torch.bfloat16).eval()
    prompts = _prompts()

    found = torch.cat(chunked_logits(model.decoder, prompts, CHUNKS))

    expected, theirs = (torch.cat(_expected(each, prompts)) for each in (reference, rounded))
    assert model.decoder.dtype == torch.bfloat16
    assert (found - expected).norm() < 1.3 * (theirs - expected).norm()


def test_a_sharded_folder_was_used(saved: Any) -> None:
    folder, _ = saved("llama with llama3 rope")

    assert len(list(folder.glob("model-*.safetensors"))) > 2
    assert (folder / "model.safetensors.index.json").is_file()


def test_a_context_may_fill_the_position_table_to_its_end(
    saved: Any, chunked_logits: Callable[..., Any]
) -> None:
    folder, reference = saved("llama with llama3 rope")
    model = load(ModelConfig(model=str(folder), dtype="float32"))
    prompts = [np.random.default_rng(5).integers(0, VOCABULARY, 256).tolist()]

    found = chunked_logits(model.decoder, prompts, (64,))

    torch.testing.assert_close(found[0], _expected(reference, prompts)[0], atol=2e-4, rtol=2e-4)


def test_the_cache_takes_as_many_bytes_as_a_token_is_said_to(saved: Any) -> None:
    folder, _ = saved("llama with llama3 rope")
    decoder = load(ModelConfig(model=str(folder))).decoder

    caches = decoder.allocate_caches(5, 32)

    held = sum(cache.k.nbytes + cache.v.nbytes for cache in caches)
    assert held == 5 * 32 * decoder.kv_bytes_per_token


def test_progress_is_told_from_headers_to_the_last_weight(saved: Any) -> None:
    folder, _ = saved("llama with llama3 rope")
    heard: list[tuple[str, float]] = []

    load(ModelConfig(model=str(folder)), progress=lambda *event: heard.append(event))

    assert heard[0] == ("reading headers", 0.0)
    fractions = [fraction for what, fraction in heard if what == "loading weights"]
    assert fractions == sorted(fractions) and fractions[-1] == 1.0


def test_a_back_end_asked_for_by_name_is_the_one_used(saved: Any) -> None:
    folder, _ = saved("llama with llama3 rope")

    decoder = load(ModelConfig(model=str(folder)), kernel_backend="torch").decoder

    assert decoder.operators.name == "torch"
