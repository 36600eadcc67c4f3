"""From a configuration to a model that's ready to run: find, check, read, pack."""

from __future__ import annotations

from dataclasses import dataclass, fields

import torch

from hfx.config import ModelConfig
from hfx.kernels import Operators, select

from .checkpoint import Checkpoint
from .decoder import Decoder, attention_spec
from .folder import FolderCheckpoint
from .gguf_checkpoint import GgufCheckpoint
from .group import ALONE, Membership
from .hub import ModelLocation, resolve
from .memory import check_fits, weight_bytes
from .shard import Shard
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


@dataclass(frozen=True, slots=True)
class _Opened:
    """A model whose headers fit together, before memory is spent on weights."""

    location: ModelLocation
    checkpoint: Checkpoint
    shard: Shard
    operators: Operators
    dtype: torch.dtype
    device: torch.device

    def decoder(self, member: Membership, report: Progress) -> Decoder:
        """Read the weights, then join the others."""
        weights = load_weights(
            self.checkpoint, self.shard, self.operators, self.dtype, self.device, report
        )
        group = member.join(self.device) if member.join is not None else None
        return Decoder(self.shard, weights, self.operators, group)


def load(
    config: ModelConfig,
    *,
    kernel_backend: str | None = None,
    device: str = "cpu",
    page_tokens: int = USUAL_PAGE_TOKENS,
    member: Membership = ALONE,
    progress: Progress | None = None,
) -> LoadedModel:
    """Find and load the model; `progress` hears what is being done and the fraction of it.

    The back end is one that can run the model's attention with pages of so many tokens. Of several
    ranks, this one's part of the weights is loaded.

    Raises:
        ValueError: a file is missing, damaged or describes something that isn't supported, or the
            model can't be cut for so many ranks. Headers and tokenizer are checked before memory is
            spent on weights.
        MemoryError: the weights don't fit.
        RuntimeError: no back end of the kernels can run the model on this device.
    """
    report = progress or _silent
    opened = _open(config, kernel_backend, device, page_tokens, member, report)
    location, checkpoint = opened.location, opened.checkpoint
    report("building the tokenizer", 0.0)
    words = words_of(checkpoint, location, config)
    return LoadedModel(
        **{field.name: getattr(words, field.name) for field in fields(words)},
        spec=checkpoint.spec,
        decoder=opened.decoder(member, report),
    )


def load_decoder(
    config: ModelConfig,
    *,
    kernel_backend: str | None = None,
    device: str = "cpu",
    page_tokens: int = USUAL_PAGE_TOKENS,
    member: Membership = ALONE,
) -> Decoder:
    """The decoder alone, as a rank needs it that sees token ids only.

    Raises:
        ValueError, MemoryError, RuntimeError: as `load`.
    """
    opened = _open(config, kernel_backend, device, page_tokens, member, _silent)
    return opened.decoder(member, _silent)


def _open(
    config: ModelConfig,
    kernel_backend: str | None,
    device: str,
    page_tokens: int,
    member: Membership,
    report: Progress,
) -> _Opened:
    report("reading headers", 0.0)
    location = resolve(config.model, revision=config.revision, download_dir=config.download_dir)
    checkpoint = open_checkpoint(location)
    dtype, at = DTYPES[config.dtype], torch.device(device)
    shard = Shard.of(checkpoint.spec, member.rank, member.ranks)
    operators = select(
        kernel_backend,
        device=device,
        dtype=dtype,
        spec=attention_spec(shard.local, dtype, page_tokens),
    )
    on_host = at.type == "cpu"
    # Ranks on the host share its memory, and the first one asks for all of them.
    asked = [] if on_host and member.rank else [member.rank]
    if on_host and not member.rank:
        asked = list(range(member.ranks))
    shards = [Shard.of(checkpoint.spec, rank, member.ranks) for rank in asked]
    needed_bytes = sum(weight_bytes(each.stored, dtype.itemsize, packed=on_host) for each in shards)
    check_fits(needed_bytes, location.name, at)
    return _Opened(location, checkpoint, shard, operators, dtype, at)


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
