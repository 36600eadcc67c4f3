"""A GGUF file as a checkpoint: its metadata as a decoder, its tensors by Hugging Face's names."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hfx.kernels import RopeScaling

from .chat import ChatTemplate, template_from
from .checkpoint import ALL, check_tensors, naming
from .generation import GenerationDefaults, defaults_from_metadata
from .gguf_file import GgufFile, open_gguf
from .gguf_tokenizer import tokenizer_from_metadata
from .spec import DecoderSpec
from .tokenizer import Tokenizer

if TYPE_CHECKING:
    import torch

ARCHITECTURES = ("llama", "qwen2", "qwen3")
ROPE_TYPES = ("none", "linear", "yarn")
ROPE_BASE = 10000.0  # llama.cpp's, where the file says nothing
DIVISORS = "rope_freqs.weight"

TOP_NAMES = {
    "model.embed_tokens.weight": "token_embd.weight",
    "model.norm.weight": "output_norm.weight",
    "lm_head.weight": "output.weight",
}
LAYER_NAMES = {
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
OUR_LAYER_NAMES = {theirs: ours for ours, theirs in LAYER_NAMES.items()}
OUR_TOP_NAMES = {theirs: ours for ours, theirs in TOP_NAMES.items()}


class GgufText:
    """One GGUF file's tokenizer, chat template and advice.

    Raises:
        ValueError: the file is damaged.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = open_gguf(path)

    @property
    def vocabulary(self) -> int:
        with naming(self.path):
            return _vocabulary(self._file)

    def tokenizer(self) -> Tokenizer:
        with naming(self.path):
            return tokenizer_from_metadata(self._file.metadata)

    def chat_template(self, tokenizer: Tokenizer, override: str | None) -> ChatTemplate | None:
        template = override or self._file.metadata.get("tokenizer.chat_template")
        return template_from(template, tokenizer.special_tokens)

    def generation(self) -> GenerationDefaults:
        return defaults_from_metadata(self._file.metadata)


class GgufCheckpoint(GgufText):
    """One GGUF file, with its weights.

    Raises:
        ValueError: the file is damaged, or describes a model that isn't supported.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self._names = {_our_name(name): name for name in self._file.tensors if name != DIVISORS}
        shapes = {ours: self._file.tensors[name].shape for ours, name in self._names.items()}
        with naming(path):
            self.spec = spec_from_gguf(self._file)
            check_tensors(self.spec, shapes)

    def read(
        self, name: str, out_RC: torch.Tensor, rows: slice = ALL, columns: slice = ALL
    ) -> None:
        stored = self._file.tensors[self._names[name]]
        raw = self._file.raw(stored.name)[rows]
        if self._is_paired(name):
            count = len(raw) if len(stored.shape) > 1 else stored.shape[0]
            rows_RB = raw.view(count, -1)  # a bias has one number a row
            raw = unpaired(rows_RB, count // self.spec.head_size).view(raw.shape)
        from .dequantize import dequantize  # here: it imports torch

        dequantize(raw, stored.kind, out_RC, columns)

    def _is_paired(self, name: str) -> bool:
        """Whether llama.cpp's converter has reordered the rows of each of this tensor's heads."""
        is_rotated = ".q_proj." in name or ".k_proj." in name
        return is_rotated and self.spec.architecture == "llama"


def unpaired(rows_RB: torch.Tensor, heads: int) -> torch.Tensor:
    """Stored rows of q or k, back from llama.cpp's order (pairs side by side) in that of halves.

    Both orders are exact with the matching rope style. Putting rows back costs a copy of the
    stored, still quantised bytes at loading, and leaves every decoder with one style, "neox".
    """
    import torch

    rows, width = rows_RB.shape
    pairs = rows_RB.numpy().reshape(heads, rows // heads // 2, 2, width)
    # numpy's copy stays on this thread; torch's would wait for a parallel region.
    return torch.from_numpy(np.ascontiguousarray(pairs.swapaxes(1, 2)).reshape(rows, width))


def spec_from_gguf(file: GgufFile) -> DecoderSpec:
    """The decoder that the metadata and the tensors' names describe.

    Raises:
        ValueError: something in it isn't supported, or a key is missing; the message says what was
            found and what is supported.
    """
    keys = _Keys(file)
    width, heads = keys.integer("embedding_length"), keys.integer("attention.head_count")
    head_size = keys.integer("attention.key_length", width // heads)
    _refuse_unsupported(keys, head_size)
    scaling = _scaling(keys)
    longest = keys.integer("context_length")
    if scaling is not None and scaling.kind == "yarn":
        longest = max(longest, int(scaling.factor * scaling.original_max_positions))
    has = file.tensors.__contains__
    return DecoderSpec(
        architecture=keys.architecture,
        vocabulary=_vocabulary(file),
        width=width,
        layers=keys.integer("block_count"),
        query_heads=heads,
        kv_heads=keys.integer("attention.head_count_kv", heads),
        head_size=head_size,
        ffn_width=keys.integer("feed_forward_length"),
        norm_eps=keys.number("attention.layer_norm_rms_epsilon"),
        rope_base=keys.number("rope.freq_base", ROPE_BASE),
        rope_scaling=scaling,
        rope_divisors=_divisors(file),
        max_positions=longest,
        tied_embeddings=not has("output.weight"),
        qkv_bias=has("blk.0.attn_q.bias"),
        output_bias=has("blk.0.attn_output.bias"),
        ffn_bias=has("blk.0.ffn_gate.bias"),
        qk_norm=keys.architecture == "qwen3",
        window=keys.integer("attention.sliding_window", 0),
    )


class _Keys:
    """Metadata under the file's architecture, each value checked when it's asked for."""

    def __init__(self, file: GgufFile) -> None:
        self._metadata: Mapping[str, Any] = file.metadata
        self.architecture = str(file.metadata.get("general.architecture"))
        if self.architecture not in ARCHITECTURES:
            raise ValueError(
                f"architecture {self.architecture!r} is not supported; supported: "
                f"{', '.join(ARCHITECTURES)}"
            )

    def optional(self, key: str) -> Any:
        return self._metadata.get(f"{self.architecture}.{key}")

    def number(self, key: str, default: float | None = None) -> float:
        value = self.optional(key)
        value = default if value is None else value
        if not isinstance(value, int | float):
            raise ValueError(
                f"metadata {self.architecture}.{key} is {value!r}; one number is needed"
            )
        return value

    def integer(self, key: str, default: int | None = None) -> int:
        return int(self.number(key, default))


def _refuse_unsupported(keys: _Keys, head_size: int) -> None:
    experts = keys.integer("expert_count", 0)
    if experts:
        raise ValueError(
            f"{keys.architecture}.expert_count is {experts}; mixtures of experts are "
            "not supported; supported: dense decoders"
        )
    for key in ("rope.dimension_count", "attention.value_length"):
        found = keys.integer(key, head_size)
        if found != head_size:
            raise ValueError(
                f"{keys.architecture}.{key} is {found}; supported: the head size ({head_size})"
            )


def _scaling(keys: _Keys) -> RopeScaling | None:
    kind = keys.optional("rope.scaling.type") or "none"
    if kind not in ROPE_TYPES:
        raise ValueError(
            f"{keys.architecture}.rope.scaling.type is {kind!r}; supported: "
            f"{', '.join(map(repr, ROPE_TYPES))}"
        )
    if kind == "none":
        return None
    factor = keys.number("rope.scaling.factor")
    trained = keys.integer("rope.scaling.original_context_length", keys.integer("context_length"))
    if kind == "linear":
        return RopeScaling(kind="linear", factor=factor, original_max_positions=trained)
    share = keys.number("rope.scaling.attn_factor", 1.0)
    attention_factor = share * (1.0 + 0.1 * math.log(factor)) if factor > 1.0 else share
    return RopeScaling(
        kind="yarn",
        factor=factor,
        original_max_positions=trained,
        attention_factor=attention_factor,
    )


def _divisors(file: GgufFile) -> tuple[float, ...] | None:
    """What llama.cpp divides each rotary frequency by: how GGUF writes Llama 3's scaling."""
    if DIVISORS not in file.tensors:
        return None
    import torch

    from .dequantize import dequantize

    stored = file.tensors[DIVISORS]
    values = torch.empty(1, *stored.shape)
    dequantize(file.raw(DIVISORS), stored.kind, values)
    return tuple(values[0].tolist())


def _vocabulary(file: GgufFile) -> int:
    table = file.tensors.get("token_embd.weight")
    if table is None:
        raise ValueError("tensor 'token_embd.weight' is missing")
    return table.shape[0]


def _our_name(name: str) -> str:
    """Hugging Face's name of a GGUF tensor; a name without a counterpart stays as it is."""
    if name in OUR_TOP_NAMES:
        return OUR_TOP_NAMES[name]
    parts = name.split(".")
    if len(parts) == 4 and parts[0] == "blk" and parts[2] in OUR_LAYER_NAMES:
        return f"model.layers.{parts[1]}.{OUR_LAYER_NAMES[parts[2]]}.{parts[3]}"
    return name
