"""Which decoder a Hugging Face `config.json` describes, or why it can't be served.

Reads the keys of transformers 4 (`rope_theta`, `rope_scaling`) and 5 (`rope_parameters`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hfx.kernels import RopeScaling

from .spec import DecoderSpec

ARCHITECTURES = {
    "LlamaForCausalLM": "llama",
    "MistralForCausalLM": "mistral",
    "Qwen2ForCausalLM": "qwen2",
    "Qwen3ForCausalLM": "qwen3",
}
ROPE_TYPES = ("default", "linear", "dynamic", "llama3", "yarn")
ROPE_OPTIONS = (
    "low_freq_factor",
    "high_freq_factor",
    "beta_fast",
    "beta_slow",
    "attention_factor",
    "mscale",
    "mscale_all_dim",
    "truncate",
)
# What transformers assumes where a key is absent.
ROPE_BASE = 10000.0
NORM_EPS = 1e-6
MISTRAL_WINDOW = 4096


def spec_from_config(config: Mapping[str, Any]) -> DecoderSpec:
    """The decoder that `config` describes.

    Raises:
        ValueError: something in it isn't supported; the message says what was found and what is
            supported.
    """
    architecture = _architecture(config)
    _refuse_unsupported(config)
    heads = _integer(config, "num_attention_heads")
    width = _integer(config, "hidden_size")
    layers = _integer(config, "num_hidden_layers")
    bias = bool(config.get("attention_bias", False))
    scaling, base = _rope(config)
    return DecoderSpec(
        architecture=architecture,
        vocabulary=_integer(config, "vocab_size"),
        width=width,
        layers=layers,
        query_heads=heads,
        kv_heads=_integer(config, "num_key_value_heads", heads),
        head_size=_head_size(config, architecture, width, heads),
        ffn_width=_integer(config, "intermediate_size"),
        norm_eps=float(config.get("rms_norm_eps", NORM_EPS)),
        rope_base=base,
        rope_scaling=scaling,
        max_positions=_max_positions(config, scaling),
        tied_embeddings=bool(config.get("tie_word_embeddings", False)),
        qkv_bias=bias or architecture == "qwen2",
        output_bias=bias and architecture in ("llama", "qwen3"),
        ffn_bias=bool(config.get("mlp_bias", False)) and architecture == "llama",
        qk_norm=architecture == "qwen3",
        window=_window(config, architecture, layers),
    )


def _architecture(config: Mapping[str, Any]) -> str:
    names = config.get("architectures") or []
    for name in names:
        if name in ARCHITECTURES:
            return ARCHITECTURES[name]
    found = ", ".join(map(str, names)) or f"none (model_type {config.get('model_type')!r})"
    raise ValueError(
        f"architecture {found} is not supported; supported: {', '.join(ARCHITECTURES)}"
    )


def _refuse_unsupported(config: Mapping[str, Any]) -> None:
    quantization = config.get("quantization_config")
    if quantization:
        method = quantization.get("quant_method", "unnamed")
        raise ValueError(
            f"weights quantised by {method!r} are not supported; supported: float32, "
            "float16 or bfloat16 safetensors, and GGUF files"
        )
    activation = config.get("hidden_act", "silu")
    if activation not in ("silu", "swish"):
        raise ValueError(f"hidden_act is {activation!r}; supported: 'silu'")
    for key in ("num_experts", "num_local_experts"):
        if config.get(key):
            raise ValueError(
                f"{key} is {config[key]}; mixtures of experts are not supported; "
                "supported: dense decoders"
            )


def _integer(config: Mapping[str, Any], key: str, default: int | None = None) -> int:
    value = config.get(key)
    value = default if value is None else value
    if not isinstance(value, int) or value < 1:
        raise ValueError(f"{key} is {value!r}; a positive integer is needed")
    return value


def _head_size(config: Mapping[str, Any], architecture: str, width: int, heads: int) -> int:
    explicit = config.get("head_dim")
    if explicit:
        return int(explicit)
    return 128 if architecture == "qwen3" else width // heads


def _rope(config: Mapping[str, Any]) -> tuple[RopeScaling | None, float]:
    values = {**(config.get("rope_scaling") or {}), **(config.get("rope_parameters") or {})}
    base = float(values.get("rope_theta") or config.get("rope_theta") or ROPE_BASE)
    kind = values.get("rope_type", values.get("type", "default"))
    if kind not in ROPE_TYPES:
        raise ValueError(f"rope_type is {kind!r}; supported: {', '.join(map(repr, ROPE_TYPES))}")
    fraction = values.get("partial_rotary_factor", config.get("partial_rotary_factor", 1.0))
    if fraction != 1.0:
        raise ValueError(
            f"partial_rotary_factor is {fraction}; supported: 1.0 (whole heads are rotated)"
        )
    if kind == "default":
        return None, base
    return _scaling(kind, values, config), base


def _scaling(kind: Any, values: Mapping[str, Any], config: Mapping[str, Any]) -> RopeScaling:
    trained = values.get("original_max_position_embeddings")
    longest = _integer(config, "max_position_embeddings")
    factor = values.get("factor")
    if factor is None and kind == "yarn" and trained:
        factor = longest / trained
    if factor is None:
        raise ValueError(f"rope_type {kind!r} needs a factor, and none was found")
    options = {name: values[name] for name in ROPE_OPTIONS if values.get(name) is not None}
    if kind == "dynamic":
        trained = longest  # transformers stretches from here on, whatever else the config says
    return RopeScaling(
        kind=kind, factor=float(factor), original_max_positions=trained or longest, **options
    )


def _max_positions(config: Mapping[str, Any], scaling: RopeScaling | None) -> int:
    longest = _integer(config, "max_position_embeddings")
    if scaling is not None and scaling.kind == "yarn":
        # Qwen's instructions add yarn to a config without raising max_position_embeddings.
        return max(longest, int(scaling.factor * scaling.original_max_positions))
    return longest


def _window(config: Mapping[str, Any], architecture: str, layers: int) -> int:
    if architecture == "llama":
        return 0
    if architecture == "mistral":
        return config.get("sliding_window", MISTRAL_WINDOW) or 0
    window = config.get("sliding_window")
    if not window or not config.get("use_sliding_window", False):
        return 0
    full_layers = config.get("max_window_layers", 28)
    kinds = config.get("layer_types") or [
        "sliding_attention" if layer >= full_layers else "full_attention" for layer in range(layers)
    ]
    if len(set(kinds)) > 1:
        raise ValueError(
            f"{kinds.count('sliding_attention')} of {layers} layers have a sliding window; "
            "supported: all of them or none"
        )
    return int(window) if kinds[0] == "sliding_attention" else 0
