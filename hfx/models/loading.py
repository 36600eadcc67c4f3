"""From a configuration to a model that's ready to run: find, check, read, pack."""

from __future__ import annotations

from dataclasses import dataclass, fields

import torch

from hfx.config import ModelConfig
from hfx.kernels import select

from .checkpoint import Checkpoint
from .decoder import Decoder, attention_spec
from .folder import FolderCheckpoint
from .gguf_checkpoint import GgufCheckpoint
from .hub import ModelLocation, resolve
from .memory import check_fits, weight_bytes
from .spec import DecoderSpec
from .weights import Progress, load_weights
from .words import Words, words_of

DTYPES = {"auto": torch.bfloat16, "bfloat16": torch.bfloat16, "float32": torch.float32}
USUAL_PAGE_TOKENS = 64


@dataclass(frozen=True, slots=True, eq=False)
class LoadedModel(Words):
    """A model in memory."""

    spec: DecoderSpec
    decoder: Decoder


def load(
    config: ModelConfig,
    *,
    kernel_backend: str | None = None,
    device: str = "cpu",
    page_tokens: int = USUAL_PAGE_TOKENS,
    progress: Progress | None = None,
) -> LoadedModel:
    """Find and load the model; `progress` hears what is being done and the fraction of it.

    The back end is one that can run the model's attention with pages of so many tokens.

    Raises:
        ValueError: a file is missing, damaged or describes something that isn't supported. Headers
            and tokenizer are checked before memory is spent on weights.
        MemoryError: the weights don't fit.
        RuntimeError: no back end of the kernels can run the model on this device.
    """
    report = progress or _silent
    report("reading headers", 0.0)
    location = resolve(config.model, revision=config.revision, download_dir=config.download_dir)
    checkpoint = open_checkpoint(location)
    spec, dtype = checkpoint.spec, DTYPES[config.dtype]
    operators = select(
        kernel_backend,
        device=device,
        dtype=dtype,
        spec=attention_spec(spec, dtype, page_tokens),
    )
    at = torch.device(device)
    needed_bytes = weight_bytes(spec, dtype.itemsize, packed=at.type == "cpu")
    check_fits(needed_bytes, location.name, at)
    report("building the tokenizer", 0.0)
    words = words_of(checkpoint, location, config)
    weights = load_weights(checkpoint, operators, dtype, at, report)
    return LoadedModel(
        **{field.name: getattr(words, field.name) for field in fields(words)},
        spec=spec,
        decoder=Decoder(spec, weights, operators),
    )


def open_checkpoint(location: ModelLocation) -> Checkpoint:
    """Read the headers of whatever lies there.

    Raises:
        ValueError: it can't be served; the message says why.
    """
    if location.is_gguf:
        return GgufCheckpoint(location.path)
    return FolderCheckpoint(location.path)


def _silent(what: str, fraction: float) -> None:
    pass
