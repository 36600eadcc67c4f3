"""A model folder in Hugging Face's layout: which files it needs and what each contributes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .chat import ChatTemplate, template_from
from .checkpoint import ALL, check_tensors, naming
from .generation import GenerationDefaults, defaults_from_folder
from .hf_config import spec_from_config
from .hf_tokenizer import tokenizer_from_folder
from .tokenizer import Tokenizer

if TYPE_CHECKING:
    import torch

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"
UNSUPPORTED_WEIGHTS = ("*.bin", "*.pt", "*.pth", "*.h5", "*.msgpack", "*.onnx")


class FolderText:
    """A folder with `config.json` and `tokenizer.json`; weights need not be there.

    Raises:
        ValueError: a file is missing, damaged or unsupported.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        config_path = path / "config.json"
        self._config = read_json(config_path)
        with naming(config_path):
            self.spec = spec_from_config(self._config)
        if not (path / "tokenizer.json").is_file():
            raise ValueError(_no_tokenizer(path))

    @property
    def vocabulary(self) -> int:
        return self.spec.vocabulary

    def tokenizer(self) -> Tokenizer:
        return tokenizer_from_folder(self.path)

    def chat_template(self, tokenizer: Tokenizer, override: str | None) -> ChatTemplate | None:
        return template_from(override or self._own_template(), tokenizer.special_tokens)

    def _own_template(self) -> str | None:
        file = self.path / "chat_template.jinja"
        if file.is_file():
            return file.read_text(encoding="utf-8")
        config_path = self.path / "tokenizer_config.json"
        template = read_json(config_path).get("chat_template") if config_path.is_file() else None
        if isinstance(template, list):
            with naming(config_path):
                template = {entry["name"]: entry["template"] for entry in template}.get("default")
        if not isinstance(template, str | None):
            raise ValueError(f"{config_path}: chat_template is no text: {template!r:.80}")
        return template

    def generation(self) -> GenerationDefaults:
        path = self.path / "generation_config.json"
        found = read_json(path) if path.is_file() else {}
        with naming(path):
            return defaults_from_folder(found, self._config)


class FolderCheckpoint(FolderText):
    """A folder that has weights too: safetensors, one file or shards by index.

    Raises:
        ValueError: a file is missing, damaged or unsupported, or the tensors don't make the decoder
            that the configuration describes.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        from .safetensors_file import SafetensorsFiles  # here: it imports torch

        spec = self.spec
        self._files = SafetensorsFiles(_weight_files(path))
        shapes = {name: stored.shape for name, stored in self._files.tensors.items()}
        if spec.tied_embeddings:
            shapes.pop("lm_head.weight", None)  # a second copy of the embedding
        ignored = {name for name in shapes if name.endswith(".rotary_emb.inv_freq")}
        with naming(path):
            check_tensors(spec, shapes, ignored)

    def read(
        self, name: str, out_RC: torch.Tensor, rows: slice = ALL, columns: slice = ALL
    ) -> None:
        self._files.read(name, out_RC, rows, columns)


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in the file.

    Raises:
        ValueError: it's missing, or it holds no JSON object.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ValueError(f"{path} is missing: a model folder needs it") from None
    except ValueError as error:
        raise ValueError(f"{path}: not valid JSON ({error})") from error
    if not isinstance(value, dict):
        raise ValueError(f"{path}: holds a {type(value).__name__}; a JSON object is needed")
    return value


def _weight_files(path: Path) -> list[Path]:
    index = path / INDEX
    if index.is_file():
        listed = read_json(index)
        with naming(index):
            names = sorted(set(listed.get("weight_map", {}).values()))
            missing = [name for name in names if not (path / name).is_file()]
        if missing or not names:
            raise ValueError(
                f"{index}: names {len(names)} files, and {len(missing)} of them are missing: "
                f"{', '.join(missing)}"
            )
        return [path / name for name in names]
    if (path / SINGLE).is_file():
        return [path / SINGLE]
    others = sorted(file.name for form in UNSUPPORTED_WEIGHTS for file in path.glob(form))
    raise ValueError(
        f"{path}: neither {SINGLE} nor {INDEX} is there; found: "
        f"{', '.join(others) or 'no weights at all'}; supported: safetensors"
    )


def _no_tokenizer(path: Path) -> str:
    others = [name for name in ("tokenizer.model", "vocab.json") if (path / name).is_file()]
    return (
        f"{path / 'tokenizer.json'} is missing; found: "
        f"{', '.join(others) or 'no tokenizer at all'}; supported: tokenizer.json (transformers' "
        "`AutoTokenizer.from_pretrained(...).save_pretrained(...)` writes one)"
    )
