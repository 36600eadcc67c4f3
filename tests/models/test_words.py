"""A model's words: those of the whole model, also where there are no weights, and without torch."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from hfx.config import ModelConfig
from hfx.models import LoadedModel, load_words

CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "vocab_size": 49_152,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "rms_norm_eps": 1e-5,
    "eos_token_id": 2,
}
WITHOUT_TORCH = """\
import sys
sys.modules["torch"] = None  # importing it fails
from hfx.config import ModelConfig
from hfx.models import load_words
words = load_words(ModelConfig(model=sys.argv[1]))
print(words.name, words.vocabulary, words.tokenizer.encode("Hello there"))
"""


@pytest.fixture
def folder(bundled: LoadedModel, tmp_path: Path) -> Path:
    """A model's folder from which the weights are missing."""
    path = tmp_path / "words-only"
    path.mkdir()
    (path / "config.json").write_text(json.dumps(CONFIG))
    bundled.tokenizer.pipeline.save(str(path / "tokenizer.json"))
    return path


def test_they_are_those_of_the_loaded_model(bundled: LoadedModel) -> None:
    words = load_words(ModelConfig())

    assert words.tokenizer.encode("The capital") == bundled.tokenizer.encode("The capital")
    assert (words.name, words.title, words.source) == (
        bundled.name,
        bundled.title,
        bundled.source,
    )
    assert words.vocabulary == bundled.spec.vocabulary
    assert words.generation == bundled.generation
    assert words.chat is not None and bundled.chat is not None
    assert words.chat.source == bundled.chat.source


def test_a_folder_needs_no_weights_for_them(folder: Path) -> None:
    words = load_words(ModelConfig(model=str(folder), served_model_name=("mine",)))

    assert (words.name, words.title, words.vocabulary) == ("mine", "words-only", 49_152)
    assert words.generation.eos_token_ids == (2,)


def test_what_words_need_and_a_folder_lacks_is_named(folder: Path) -> None:
    (folder / "tokenizer.json").unlink()

    with pytest.raises(ValueError, match=r"tokenizer\.json is missing"):
        load_words(ModelConfig(model=str(folder)))


@pytest.mark.parametrize("kind", ["folder", "gguf"])
def test_they_are_read_where_there_is_no_torch(
    folder: Path, bundled: LoadedModel, tmp_path: Path, kind: str
) -> None:
    model = folder
    if kind == "gguf":
        model = tmp_path / "own.gguf"
        model.symlink_to(bundled.source)

    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_TORCH, str(model)], capture_output=True, text=True
    )

    tokens = bundled.tokenizer.encode("Hello there")
    assert done.stdout == f"{model.stem} 49152 {tokens}\n", done.stderr
