"""GGUF files that the `gguf` package writes from small random models, read back and run."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType as Kind
from gguf import quants
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from hfx.config import ModelConfig
from hfx.models import load
from hfx.models.dequantize import dequantize
from hfx.models.gguf_blocks import block_shape
from hfx.models.gguf_checkpoint import GgufCheckpoint

VOCABULARY = 300
PROMPT = [5, 17, 250, 3, 3, 99, 120, 7, 8, 201, 44, 45, 46, 280, 1, 2, 77, 13, 21, 34]
SMALL = {
    "vocab_size": VOCABULARY,
    "hidden_size": 128,
    "intermediate_size": 192,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
}
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 10000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
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


def _model(architecture: str, **options: Any) -> Any:
    config, model = {
        "llama": (LlamaConfig, LlamaForCausalLM),
        "qwen2": (Qwen2Config, Qwen2ForCausalLM),
        "qwen3": (Qwen3Config, Qwen3ForCausalLM),
    }[architecture]
    torch.manual_seed(11)
    made = model(config(**{**SMALL, **options})).eval()
    for name, parameter in made.named_parameters():
        parameter.data.normal_(1.0 if "norm" in name else 0.0, 0.15)
    return made


def _gguf_name(name: str) -> str:
    top = {
        "model.embed_tokens.weight": "token_embd.weight",
        "model.norm.weight": "output_norm.weight",
        "lm_head.weight": "output.weight",
    }
    if name in top:
        return top[name]
    _, _, layer, *middle, leaf = name.split(".")
    return f"blk.{layer}.{LAYER_NAMES['.'.join(middle)]}.{leaf}"


def _permuted(rows: np.ndarray, heads: int) -> np.ndarray:
    """What llama.cpp's converter does to the rows of q and k of a Llama."""
    shape = rows.shape
    return rows.reshape(heads, 2, shape[0] // heads // 2, *shape[1:]).swapaxes(1, 2).reshape(shape)


def _write(path: Path, model: Any, kind: Kind, **metadata: Any) -> None:
    """Writes the model with its matrices in `kind`, and leaves in it what that rounds them to."""
    architecture, config = model.config.model_type, model.config
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    if getattr(config, "head_dim", None):
        writer.add_key_length(config.head_dim)
        writer.add_value_length(config.head_dim)
    for key, value in metadata.items():
        add = writer.add_float32 if isinstance(value, float) else writer.add_uint32
        add(f"{architecture}.{key.replace('__', '.')}", value)
    _add_vocabulary(writer)
    tied = {"lm_head.weight"} if config.tie_word_embeddings else set()
    heads = {".q_proj.": config.num_attention_heads, ".k_proj.": config.num_key_value_heads}
    for name, parameter in model.state_dict().items():
        if name in tied:
            continue
        values = parameter.numpy().copy()
        if values.ndim == 2:
            parameter.copy_(
                torch.from_numpy(quants.dequantize(quants.quantize(values, kind), kind))
            )
        for mark, count in heads.items():
            if architecture == "llama" and mark in name:
                values = _permuted(values, count)
        stored = Kind.F32 if values.ndim == 1 else kind
        writer.add_tensor(_gguf_name(name), quants.quantize(values, stored), raw_dtype=stored)
    if config.rope_parameters["rope_type"] == "llama3":
        writer.add_tensor("rope_freqs.weight", _llama3_divisors(config))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _add_vocabulary(writer: gguf.GGUFWriter) -> None:
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("default")
    letters = [chr(0x100 + i) for i in range(VOCABULARY - 1)]
    writer.add_token_list([*letters, letters[3] + letters[4]])
    writer.add_token_types([3 if i < 3 else 1 for i in range(VOCABULARY)])
    writer.add_token_merges([f"{letters[3]} {letters[4]}"])
    writer.add_eos_token_id(2)


def _llama3_divisors(config: Any) -> np.ndarray:
    size, rope = config.head_dim, config.rope_parameters
    wavelengths = 2 * np.pi * rope["rope_theta"] ** (np.arange(0, size, 2) / size)
    turns = rope["original_max_position_embeddings"] / wavelengths
    smooth = ((turns - 1.0) / (4.0 - 1.0)).clip(0, 1)
    return (1 / ((1 - smooth) / rope["factor"] + smooth)).astype(np.float32)


def _check(path: Path, model: Any, chunked_logits: Callable[..., Any]) -> None:
    loaded = load(ModelConfig(model=str(path), dtype="float32"))

    (found,) = chunked_logits(loaded.decoder, [PROMPT], (7, 1))

    with torch.inference_mode():
        expected = model(torch.tensor([PROMPT])).logits[0]
    assert expected.std() > 0.3
    torch.testing.assert_close(found, expected, atol=2e-4, rtol=2e-4)


@pytest.mark.parametrize(
    "kind", [Kind.F32, Kind.F16, Kind.BF16, Kind.Q8_0, Kind.Q4_0, Kind.Q4_1, Kind.Q5_0, Kind.Q5_1]
)
def test_a_llama_in_every_type_that_can_be_written(
    kind: Kind, tmp_path: Path, chunked_logits: Callable[..., Any]
) -> None:
    model = _model("llama", tie_word_embeddings=True)
    _write(tmp_path / "model.gguf", model, kind)

    _check(tmp_path / "model.gguf", model, chunked_logits)


def test_a_llama_with_frequency_divisors(
    tmp_path: Path, chunked_logits: Callable[..., Any]
) -> None:
    model = _model("llama", rope_parameters=LLAMA3)
    _write(tmp_path / "model.gguf", model, Kind.Q8_0)

    _check(tmp_path / "model.gguf", model, chunked_logits)


def test_a_llama_with_biases(tmp_path: Path, chunked_logits: Callable[..., Any]) -> None:
    """The converter reorders the biases of q and k as well."""
    model = _model("llama", attention_bias=True)
    _write(tmp_path / "model.gguf", model, Kind.Q8_0)

    _check(tmp_path / "model.gguf", model, chunked_logits)


def test_a_qwen2_with_biases(tmp_path: Path, chunked_logits: Callable[..., Any]) -> None:
    model = _model("qwen2")
    _write(tmp_path / "model.gguf", model, Kind.Q8_0)

    _check(tmp_path / "model.gguf", model, chunked_logits)


def test_a_qwen3_with_normalised_queries_and_wide_heads(
    tmp_path: Path, chunked_logits: Callable[..., Any]
) -> None:
    model = _model("qwen3", head_dim=64)
    _write(tmp_path / "model.gguf", model, Kind.F16)

    _check(tmp_path / "model.gguf", model, chunked_logits)


@pytest.mark.filterwarnings("ignore:invalid value encountered:RuntimeWarning")
@pytest.mark.parametrize("kind", [2, 3, 6, 7, 8, 10, 11, 12, 13, 14, 20])
def test_dequantised_blocks_are_bit_for_bit_those_of_the_gguf_package(kind: int) -> None:
    """Random bytes, so that scales are infinite or no numbers at times."""
    numbers, nbytes = block_shape(kind)
    raw = np.random.default_rng(kind).integers(0, 256, (300, 3 * nbytes), dtype=np.uint8)
    found = torch.empty(300, 3 * numbers)

    dequantize(torch.from_numpy(raw), kind, found)

    expected = quants.dequantize(raw, Kind(kind))
    assert np.array_equal(found.numpy(), expected, equal_nan=True)


def test_a_row_longer_than_a_slice_is_dequantised_whole() -> None:
    raw = torch.from_numpy(np.random.default_rng(0).integers(0, 60, (2, 34 * 2048), np.uint8))
    found = torch.empty(2, 65536)

    dequantize(raw, Kind.Q8_0, found)

    assert np.array_equal(found.numpy(), quants.dequantize(raw.numpy(), Kind.Q8_0))


def _tiny(tmp_path: Path) -> Path:
    path = tmp_path / "model.gguf"
    _write(path, _model("llama"), Kind.Q8_0)
    return path


def _refused(path: Path) -> str:
    with pytest.raises(ValueError) as caught:
        load(ModelConfig(model=str(path)))
    assert str(path) in str(caught.value)
    return str(caught.value)


def test_a_truncated_file_is_refused_with_its_size(tmp_path: Path) -> None:
    path = _tiny(tmp_path)
    whole = path.read_bytes()
    path.write_bytes(whole[:-1000])

    message = _refused(path)

    assert "truncated" in message and str(len(whole) - 1000) in message


@pytest.mark.parametrize("length", [10, 40, 700])
def test_a_file_that_ends_in_its_header_is_refused(length: int, tmp_path: Path) -> None:
    path = _tiny(tmp_path)
    path.write_bytes(path.read_bytes()[:length])

    assert f"{length} bytes" in _refused(path)


def test_another_magic_is_refused(tmp_path: Path) -> None:
    path = _tiny(tmp_path)
    path.write_bytes(b"GGML" + path.read_bytes()[4:])

    message = _refused(path)

    assert "GGML" in message and "GGUF" in message


def test_an_old_version_is_refused(tmp_path: Path) -> None:
    path = _tiny(tmp_path)
    path.write_bytes(b"GGUF\x01\0\0\0" + path.read_bytes()[8:])

    assert "version 1; supported: 2 and 3" in _refused(path)


def test_a_big_endian_file_is_refused(tmp_path: Path) -> None:
    path = _tiny(tmp_path)
    path.write_bytes(b"GGUF\0\0\0\x03" + path.read_bytes()[8:])

    assert "big-endian" in _refused(path)


def test_a_part_of_a_split_file_is_refused_with_the_cure(tmp_path: Path) -> None:
    path = tmp_path / "model-00001-of-00002.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_uint16("split.no", 0)
    writer.add_uint16("split.count", 2)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()

    message = _refused(path)

    assert "part 1 of 2" in message and "llama-gguf-split --merge" in message


@pytest.mark.parametrize(
    ("metadata", "expected"),
    [
        ({"expert_count": 8}, "llama.expert_count is 8; mixtures of experts"),
        ({"rope__dimension_count": 16}, "llama.rope.dimension_count is 16; supported: the head"),
        ({"block_count": 3}, "tensors are missing: model.layers.2.input_layernorm.weight"),
        ({"block_count": 1}, "have no place in a llama decoder of 1 layers"),
        ({"feed_forward_length": 160}, "has shape [192, 128]; the configuration asks for [160"),
    ],
)
def test_what_the_decoder_does_not_support_is_refused(
    metadata: dict[str, Any], expected: str, tmp_path: Path
) -> None:
    model = _model("llama")
    path = tmp_path / "model.gguf"
    writer_metadata = {**metadata}
    if "block_count" in metadata:
        model.config.num_hidden_layers = writer_metadata.pop("block_count")
    if "feed_forward_length" in metadata:
        model.config.intermediate_size = writer_metadata.pop("feed_forward_length")
    _write(path, model, Kind.F16, **writer_metadata)

    assert expected in _refused(path)


def test_any_damage_to_the_header_is_refused_or_harmless(tmp_path: Path) -> None:
    """Nothing but ValueError comes out, whatever the bytes."""
    path = _tiny(tmp_path)
    whole = path.read_bytes()
    rng = np.random.default_rng(1)
    refused = 0
    for _ in range(150):
        damaged = bytearray(whole)
        for at in rng.integers(4, 6000, 3):
            damaged[at] = rng.integers(256)
        path.write_bytes(damaged)
        try:
            GgufCheckpoint(path)
        except ValueError as error:
            assert str(path) in str(error)
            refused += 1
    assert refused > 20


def test_another_architecture_is_refused_with_those_supported(tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    writer = gguf.GGUFWriter(path, "gemma3")
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()

    assert "'gemma3' is not supported; supported: llama, qwen2, qwen3" in _refused(path)


def test_a_folder_with_one_gguf_file_stands_for_the_file(tmp_path: Path) -> None:
    path = _tiny(tmp_path)

    model = load(ModelConfig(model=str(tmp_path)))

    assert model.source == path and model.name == "model"
