"""Writes a GGUF file as a Hugging Face folder in bf16, for servers that read nothing else.

Run by the Python of a peer's environment: it needs torch, transformers, accelerate and gguf, and
nothing of hfx. `python peers_folder.py SOURCE.gguf FOLDER`.
"""

import json
import sys
from pathlib import Path

import torch
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, AutoTokenizer


def write_folder(source: Path, folder: Path) -> None:
    """Tokenizer, configuration and weights; the head stays tied to the embedding."""
    tokenizer = AutoTokenizer.from_pretrained(source.parent, gguf_file=source.name)
    tokenizer.save_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(
        source.parent, gguf_file=source.name, dtype=torch.bfloat16
    )
    config = model.config.to_dict()
    config.pop("quantization_config", None)  # it is not quantised any more
    config["architectures"] = [type(model).__name__]
    (folder / "config.json").write_text(json.dumps(config, default=str, indent=1))
    weights = {name: value.contiguous() for name, value in model.state_dict().items()}
    if config.get("tie_word_embeddings"):
        weights.pop("lm_head.weight", None)
    save_file(weights, folder / "model.safetensors", {"format": "pt"})


if __name__ == "__main__":
    write_folder(Path(sys.argv[1]), Path(sys.argv[2]))
