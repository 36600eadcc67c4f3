"""A tokenizer from a folder: `tokenizer.json`, and what `tokenizer_config.json` says besides."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer as Pipeline

from .checkpoint import naming
from .tokenizer import ROLES, Tokenizer


def tokenizer_from_folder(path: Path) -> Tokenizer:
    """The folder's tokenizer. `add_bos_token` and `add_eos_token`, where the configuration states
    them, win over the post-processor in `tokenizer.json`, as in transformers.

    Raises:
        ValueError: a file is damaged; the message names it.
    """
    file = path / "tokenizer.json"
    try:
        pipeline = Pipeline.from_file(str(file))
    except Exception as error:  # the library raises bare Exception for whatever it can't parse
        raise ValueError(f"{file}: not a tokenizer that `tokenizers` can read ({error})") from error
    config = _optional_json(path / "tokenizer_config.json")
    named = {**_optional_json(path / "special_tokens_map.json"), **config}
    with naming(path):
        special = {role: _text(named[role]) for role in ROLES if named.get(role)}
        return Tokenizer(
            pipeline,
            special,
            add_bos=config.get("add_bos_token"),
            add_eos=config.get("add_eos_token"),
        )


def _text(token: Any) -> str:
    return token["content"] if isinstance(token, dict) else str(token)


def _optional_json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path}: not valid JSON ({error})") from error
    return value if isinstance(value, dict) else {}
