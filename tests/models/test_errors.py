"""What can't be served is refused before memory is spent, naming the file and what is supported."""

import json
import struct
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models
from transformers import LlamaConfig, LlamaForCausalLM

from hfx.config import ModelConfig
from hfx.models import DecoderSpec, load, memory, resolve
from hfx.models.hf_config import spec_from_config

CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 50,
    "max_position_embeddings": 128,
    "hidden_act": "silu",
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A small model in several shards."""
    model = LlamaForCausalLM(LlamaConfig(**CONFIG))
    model.save_pretrained(tmp_path, max_shard_size="60KB")
    Tokenizer(models.WordLevel({str(i): i for i in range(50)}, "0")).save(
        str(tmp_path / "tokenizer.json")
    )
    return tmp_path


@pytest.fixture(autouse=True)
def no_memory_is_spent(monkeypatch: pytest.MonkeyPatch) -> None:
    """No test here may get as far as reading weights."""

    def fail(*args: object) -> None:
        raise AssertionError("weights were read")

    monkeypatch.setattr("hfx.models.loading.load_weights", fail)


def _refused(folder: Path, kind: type[Exception] = ValueError) -> str:
    with pytest.raises(kind) as caught:
        load(ModelConfig(model=str(folder)))
    return str(caught.value)


def _change(path: Path, **values: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (
            {"architectures": ["GemmaForCausalLM"]},
            "architecture GemmaForCausalLM is not supported; supported: LlamaForCausalLM, "
            "MistralForCausalLM, Qwen2ForCausalLM, Qwen3ForCausalLM",
        ),
        ({"architectures": None, "model_type": "bert"}, "none (model_type 'bert')"),
        ({"quantization_config": {"quant_method": "awq"}}, "'awq' are not supported; supported: f"),
        ({"hidden_act": "gelu"}, "hidden_act is 'gelu'; supported: 'silu'"),
        ({"num_local_experts": 8}, "num_local_experts is 8; mixtures of experts"),
        (
            {"rope_parameters": {"rope_type": "longrope", "factor": 4.0}},
            "rope_type is 'longrope'; supported: 'default', 'linear', 'dynamic', 'llama3', 'yarn'",
        ),
        ({"rope_scaling": {"type": "linear"}}, "rope_type 'linear' needs a factor"),
        ({"partial_rotary_factor": 0.5}, "partial_rotary_factor is 0.5; supported: 1.0"),
        ({"hidden_size": "big"}, "hidden_size is 'big'; a positive integer is needed"),
        ({"num_hidden_layers": None}, "num_hidden_layers is None; a positive integer is needed"),
        (
            {
                "architectures": ["Qwen2ForCausalLM"],
                "use_sliding_window": True,
                "sliding_window": 16,
                "max_window_layers": 1,
            },
            "1 of 2 layers have a sliding window; supported: all of them or none",
        ),
    ],
)
def test_a_configuration_that_is_not_supported(values: dict[str, Any], expected: str) -> None:
    with pytest.raises(ValueError) as caught:
        spec_from_config({**CONFIG, **values})

    assert expected in str(caught.value)


def test_an_unsupported_configuration_is_named_by_its_file(folder: Path) -> None:
    _change(folder / "config.json", num_attention_heads=3)

    expected = "3 query heads over 2 key-value heads: the first must be a multiple of the second"
    assert _refused(folder) == f"{folder / 'config.json'}: {expected}"


@pytest.mark.parametrize(
    ("file", "values"),
    [
        ("config.json", {"architectures": 1}),
        ("config.json", {"head_dim": [64]}),
        ("config.json", {"rope_parameters": "none"}),
        ("config.json", {"quantization_config": "awq"}),
        ("config.json", {"rms_norm_eps": {}}),
        ("generation_config.json", {"top_k": [1]}),
        ("generation_config.json", {"temperature": "warm"}),
        ("model.safetensors.index.json", {"weight_map": [1]}),
        ("model.safetensors.index.json", {"weight_map": {"a": 1}}),
        ("tokenizer_config.json", {"chat_template": {"default": 1}}),
        ("tokenizer_config.json", {"chat_template": ["default"]}),
    ],
)
def test_a_value_of_a_wrong_type_is_refused_by_the_name_of_its_file(
    folder: Path, file: str, values: dict[str, Any]
) -> None:
    path = folder / file
    path.touch()
    path.write_text(json.dumps({**json.loads(path.read_text() or "{}"), **values}))

    assert _refused(folder).startswith(f"{path}: ")


def test_a_mistral_that_says_nothing_of_its_window_has_that_of_the_first() -> None:
    mistral = {**CONFIG, "architectures": ["MistralForCausalLM"]}

    assert spec_from_config(mistral).window == 4096
    assert spec_from_config({**mistral, "sliding_window": None}).window == 0


def test_the_keys_of_transformers_4_and_5_mean_the_same() -> None:
    scaling = {"factor": 4.0, "original_max_position_embeddings": 32}
    old = {"rope_theta": 5e5, "rope_scaling": {"type": "yarn", **scaling}}
    new = {"rope_parameters": {"rope_type": "yarn", "rope_theta": 5e5, **scaling}}

    specs = [spec_from_config({**CONFIG, **values}) for values in (old, new)]

    assert specs[0] == specs[1]
    assert specs[0].rope_base == 5e5 and specs[0].max_positions == 128


def test_yarn_lengthens_the_context_beyond_what_the_configuration_says() -> None:
    rope = {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 128}

    spec = spec_from_config({**CONFIG, "rope_scaling": rope})

    assert spec.max_positions == 512


def test_a_missing_config_is_named(folder: Path) -> None:
    (folder / "config.json").unlink()

    assert _refused(folder) == f"{folder / 'config.json'} is missing: a model folder needs it"


def test_a_config_that_is_no_json_is_named(folder: Path) -> None:
    (folder / "config.json").write_text("{")

    assert f"{folder / 'config.json'}: not valid JSON" in _refused(folder)


def test_a_missing_tokenizer_is_named_with_what_was_found(folder: Path) -> None:
    (folder / "tokenizer.json").unlink()
    (folder / "tokenizer.model").write_bytes(b"x")

    message = _refused(folder)

    assert "tokenizer.json is missing; found: tokenizer.model; supported: tokenizer.json" in message


def test_missing_shards_are_named(folder: Path) -> None:
    shard = sorted(folder.glob("model-*.safetensors"))[1]
    shard.unlink()

    message = _refused(folder)

    assert "model.safetensors.index.json" in message and shard.name in message


def test_a_truncated_shard_is_named_with_its_size(folder: Path) -> None:
    shard = sorted(folder.glob("model-*.safetensors"))[0]
    size = shard.stat().st_size - 100
    shard.write_bytes(shard.read_bytes()[:size])

    message = _refused(folder)

    assert f"{shard}: truncated" in message and str(size) in message


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"", "0 bytes, too short"),
        (b"\xff" * 30, "30 bytes, too short for the header"),
        (struct.pack("<Q", 4) + b"{{{{" + bytes(50), "its header isn't JSON"),
        (struct.pack("<Q", 10) + b'{"a": {}} ' + bytes(50), "entry for 'a' is damaged"),
    ],
)
def test_a_damaged_shard_is_named(data: bytes, expected: str, folder: Path) -> None:
    shard = sorted(folder.glob("model-*.safetensors"))[0]
    shard.write_bytes(data)

    message = _refused(folder)

    assert str(shard) in message and expected in message


def test_weights_of_another_format_are_named(folder: Path) -> None:
    for file in folder.glob("model*"):
        file.unlink()
    (folder / "pytorch_model.bin").write_bytes(b"x")

    message = _refused(folder)

    assert str(folder) in message
    assert "found: pytorch_model.bin; supported: safetensors" in message


def _rewrite(folder: Path, change: Callable[[dict[str, torch.Tensor]], None]) -> None:
    """One file instead of the shards, after `change` had its way with the tensors."""
    tensors: dict[str, torch.Tensor] = {}
    for shard in folder.glob("model*.safetensors"):
        tensors.update(load_file(shard))
        shard.unlink()
    (folder / "model.safetensors.index.json").unlink()
    change(tensors)
    save_file(tensors, folder / "model.safetensors")


def test_missing_tensors_are_named(folder: Path) -> None:
    _rewrite(folder, lambda tensors: tensors.pop("model.layers.1.mlp.up_proj.weight"))

    message = _refused(folder)

    assert f"{folder}: 1 tensors are missing: model.layers.1.mlp.up_proj.weight" in message


def test_unexpected_tensors_are_named_and_the_rest_counted(folder: Path) -> None:
    extra = {f"extra.{i}": torch.zeros(1) for i in range(7)}
    _rewrite(folder, lambda tensors: tensors.update(extra))

    message = _refused(folder)

    assert "7 tensors have no place in a llama decoder of 2 layers: extra.0" in message
    assert message.endswith("and 2 more")


def test_a_tensor_of_another_shape_is_named(folder: Path) -> None:
    name = "model.layers.0.self_attn.k_proj.weight"
    _rewrite(folder, lambda tensors: tensors.update({name: torch.zeros(64, 64)}))

    message = _refused(folder)

    assert f"'{name}' has shape [64, 64]; the configuration asks for [32, 64]" in message


def test_a_tensor_of_integers_is_named(folder: Path) -> None:
    name = "model.layers.0.self_attn.k_proj.weight"
    _rewrite(folder, lambda tensors: tensors.update({name: torch.zeros(32, 64, dtype=torch.int8)}))

    message = _refused(folder)

    assert f"tensor '{name}' holds I8; supported: F32, F16, BF16" in message


def test_a_model_that_does_not_fit_is_refused_with_both_sizes(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "available_bytes", lambda: 1 << 16)

    message = _refused(folder, MemoryError)

    assert "GiB for its weights, and 0.00 GiB of memory are available" in message


def test_the_memory_that_is_available_is_read_from_the_system() -> None:
    available = memory.available_bytes()

    assert available is not None and 1 << 20 < available < 1 << 50


def test_a_containers_limit_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    limit, used = tmp_path / "memory.max", tmp_path / "memory.current"
    monkeypatch.setattr(memory, "CGROUPS", ((limit, used),))
    used.write_text("1000\n")
    limit.write_text("max\n")
    unlimited = memory.available_bytes()

    limit.write_text("5000\n")

    assert unlimited is not None and unlimited > 1 << 20
    assert memory.available_bytes() == 4000


def test_bytes_are_estimated_from_the_shapes() -> None:
    spec = spec_from_config(CONFIG)

    assert spec.parameters == sum(
        torch.Size(shape).numel() for shape in spec.tensor_shapes().values()
    )
    assert memory.weight_bytes(spec, 2) == 2 * spec.parameters + 4 * 128 * 16


def test_a_back_end_that_cannot_run_the_model_is_refused_before_loading(folder: Path) -> None:
    with pytest.raises(ValueError, match="'gpu' does not exist: there are"):
        load(ModelConfig(model=str(folder)), kernel_backend="gpu")


@pytest.mark.parametrize("model", ["./not/here", "/not/here", "not-here.gguf", "a/b/c"])
def test_a_path_without_anything_is_refused(model: str) -> None:
    with pytest.raises(ValueError, match="no such file or folder"):
        resolve(model)


def test_a_file_that_is_no_gguf_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "model.bin"
    file.write_bytes(b"x")

    with pytest.raises(ValueError, match=r"model\.bin: not a \.gguf file; supported: a model fold"):
        resolve(str(file))


def test_a_folder_of_several_gguf_files_asks_for_one(tmp_path: Path) -> None:
    for name in ("a.gguf", "b.gguf"):
        (tmp_path / name).write_bytes(b"")

    with pytest.raises(ValueError, match=r"2 GGUF files \(a\.gguf, b\.gguf\): name one"):
        resolve(str(tmp_path))


def test_a_hub_id_without_a_network_names_the_id_and_the_cure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)

    with pytest.raises(ValueError) as caught:
        resolve("nobody/nothing", revision="v9", download_dir=str(tmp_path))

    message = str(caught.value)
    assert message.startswith("nobody/nothing: no such file or folder, and the Hub")
    assert "at revision 'v9'" in message and "give its folder" in message


def test_a_hub_id_without_the_library_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)

    with pytest.raises(ValueError, match=r"needs huggingface_hub: `pip install 'hfx\[hub\]'`"):
        resolve("nobody/nothing")


def test_a_hub_id_that_was_downloaded_before_is_found_without_a_network(
    folder: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = tmp_path_factory.mktemp("hub")
    snapshot = cache / "models--some--model" / "snapshots" / ("0" * 40)
    snapshot.parent.mkdir(parents=True)
    folder.rename(snapshot)
    (cache / "models--some--model" / "refs").mkdir()
    (cache / "models--some--model" / "refs" / "main").write_text("0" * 40)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)

    location = resolve("some/model", download_dir=str(cache))

    assert location.name == "some/model" and location.path == snapshot


def test_a_spec_refuses_sizes_that_make_no_decoder() -> None:
    def spec(**sizes: int) -> DecoderSpec:
        good = {
            "vocabulary": 8,
            "width": 8,
            "layers": 1,
            "query_heads": 2,
            "kv_heads": 1,
            "head_size": 4,
            "ffn_width": 8,
            "max_positions": 8,
        }
        return DecoderSpec(architecture="llama", norm_eps=1e-6, rope_base=1e4, **{**good, **sizes})

    for sizes, expected in (
        ({"layers": 0}, "layers is 0"),
        ({"layers": 2**40}, "layers is 1099511627776: it must be at most 4096"),
        ({"query_heads": 3, "kv_heads": 2}, "3 query heads over 2 key-value heads"),
        ({"head_size": 5}, "head_size is 5"),
    ):
        with pytest.raises(ValueError, match=expected):
            spec(**sizes)
