"""A tiny model on the Triton back end, interpreted, and the same on the CPU's."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, models
from transformers import LlamaConfig, LlamaForCausalLM

from hfx.engine import LLM
from hfx.engine.compilations import Compilations

if find_spec("triton") is None:  # there is no build of it for this machine
    collect_ignore_glob = ["test_*.py"]
else:
    os.environ["TRITON_INTERPRET"] = "1"  # kernels look at it when they are defined
    import hfx.kernels.gpu.compiles as compiles
    import hfx.kernels.gpu.operators as launchers

    del os.environ["TRITON_INTERPRET"]

VOCABULARY = 97
SPLIT_TOKENS = 32  # instead of hundreds, so that contexts of this model are split
OPTIONS = {
    "dtype": "float32",
    "device": "cpu",
    "block_size": 16,
    "num_blocks_override": 8,
    "max_num_batched_tokens": 12,
    "max_num_seqs": 3,
    "threads": 1,
}


@dataclass(frozen=True)
class Interpreted:
    """The engine on the interpreted back end, and what it would have compiled."""

    llm: LLM
    compilations: Compilations

    @property
    def executor(self) -> Any:
        return self.llm._engine._executor


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random Llama of one layer: the interpreter takes a fifth of a second for its step."""
    path = tmp_path_factory.mktemp("llama")
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=16,
        max_position_embeddings=96,
        initializer_range=0.3,
        bos_token_id=1,
        eos_token_id=2,
    )
    LlamaForCausalLM(config).save_pretrained(path)
    words = models.WordLevel({f"t{i}": i for i in range(VOCABULARY)}, unk_token="t0")
    Tokenizer(words).save(str(path / "tokenizer.json"))
    return path


@contextmanager
def interpreting() -> Iterator[None]:
    """Kernels are interpreted meanwhile, and long contexts split early."""
    launch_of = launchers.launch_of

    def splitting(*args: Any) -> Any:
        return replace(launch_of(*args), split_tokens=SPLIT_TOKENS)

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRITON_INTERPRET", "1")
        patch.setattr(launchers, "launch_of", splitting)
        yield


@pytest.fixture(autouse=True)
def only_here() -> Iterator[None]:
    """Other tests don't see the interpreter."""
    with interpreting():
        yield


@pytest.fixture(scope="session")
def interpreted(folder: Path) -> Iterator[Interpreted]:
    """Started once, its launches watched from before the start."""
    compilations = Compilations()
    watch = compiles.Watch(compilations.hear)
    threads = torch.get_num_threads()
    with interpreting(), compilations.starting():
        llm = LLM(str(folder), kernel_backend="triton", **OPTIONS)
    torch.set_num_threads(threads)
    yield Interpreted(llm, compilations)
    watch.close()


@pytest.fixture(scope="session")
def native(folder: Path) -> Iterator[LLM]:
    """The same model and limits on the CPU's own kernels."""
    threads = torch.get_num_threads()
    llm = LLM(str(folder), kernel_backend="cpu", **OPTIONS)
    torch.set_num_threads(threads)
    yield llm
