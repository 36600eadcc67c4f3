"""Small random models in Hugging Face's layout, and whether a process still runs."""

import json
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, models

from hfx.models import DecoderSpec

VOCABULARY = 311  # a prime: no number of ranks cuts it evenly
MakeModel = Callable[..., Path]


def write_model(folder: Path, *, kv_heads: int = 2, tied: bool = False) -> Path:
    """A Qwen2 of 4 heads, with biases; tied, a Llama without them."""
    spec = DecoderSpec(
        architecture="llama" if tied else "qwen2",
        vocabulary=VOCABULARY,
        width=128,
        layers=2,
        query_heads=4,
        kv_heads=kv_heads,
        head_size=32,
        ffn_width=192,
        norm_eps=1e-5,
        rope_base=1e4,
        max_positions=256,
        qkv_bias=not tied,
        tied_embeddings=tied,
    )
    torch.manual_seed(11)
    tensors = {
        name: torch.randn(shape) * 0.15 + ("norm" in name)
        for name, shape in spec.tensor_shapes().items()
    }
    save_file(tensors, folder / "model.safetensors")
    config = {
        "architectures": ["LlamaForCausalLM" if tied else "Qwen2ForCausalLM"],
        "model_type": spec.architecture,
        "vocab_size": VOCABULARY,
        "hidden_size": spec.width,
        "intermediate_size": spec.ffn_width,
        "num_hidden_layers": spec.layers,
        "num_attention_heads": spec.query_heads,
        "num_key_value_heads": kv_heads,
        "head_dim": spec.head_size,
        "max_position_embeddings": spec.max_positions,
        "rms_norm_eps": spec.norm_eps,
        "rope_theta": spec.rope_base,
        "tie_word_embeddings": tied,
        "hidden_act": "silu",
        "bos_token_id": 1,
        "eos_token_id": 2,
    }
    (folder / "config.json").write_text(json.dumps(config))
    words = {str(i): i for i in range(VOCABULARY)}
    Tokenizer(models.WordLevel(words, "0")).save(str(folder / "tokenizer.json"))
    return folder


def is_running(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state not in "ZX"


def ended(pids: Iterable[int], within_s: float) -> bool:
    """Whether all of them end within the time."""
    ends_s = time.monotonic() + within_s
    while any(map(is_running, pids)):
        if time.monotonic() > ends_s:
            return False
        time.sleep(0.02)
    return True


@pytest.fixture(scope="session")
def make_model(tmp_path_factory: pytest.TempPathFactory) -> MakeModel:
    return lambda **options: write_model(tmp_path_factory.mktemp("model"), **options)


@pytest.fixture(scope="session")
def small_model(make_model: MakeModel) -> Path:
    return make_model()


@pytest.fixture(scope="session")
def have_ended() -> Callable[[Iterable[int], float], bool]:
    return ended


@pytest.fixture(autouse=True)
def torch_threads() -> Iterable[None]:
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)
