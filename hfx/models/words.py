"""A model's words without its weights, read without torch: text to tokens, and tokens to text."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from hfx.config import ModelConfig

from .chat import ChatTemplate
from .checkpoint import Text
from .folder import FolderText
from .generation import GenerationDefaults
from .gguf_checkpoint import GgufText
from .hub import ModelLocation, resolve
from .tokenizer import Tokenizer


@dataclass(frozen=True, slots=True, eq=False)
class Words:
    """What reads and writes a model's text. `vocabulary` is how many token ids the model knows.

    `name` is what it's served under, `source` where it came from, `title` what it is called there,
    whatever it is served under.
    """

    name: str
    title: str
    source: Path
    vocabulary: int
    tokenizer: Tokenizer
    chat: ChatTemplate | None
    generation: GenerationDefaults


def load_words(config: ModelConfig) -> Words:
    """Find the model and read its words; weights need not be there.

    Raises:
        ValueError: a file is missing, damaged or describes something that isn't supported.
    """
    location = resolve(config.model, revision=config.revision, download_dir=config.download_dir)
    text = GgufText(location.path) if location.is_gguf else FolderText(location.path)
    return words_of(text, location, config)


def words_of(text: Text, location: ModelLocation, config: ModelConfig) -> Words:
    """The words of an open folder or file, as a configuration wants them.

    Raises:
        ValueError: a file is damaged or describes something that isn't supported.
    """
    tokenizer = text.tokenizer()
    chat = text.chat_template(tokenizer, config.chat_template)
    generation = text.generation().filled_from(location.advice)
    generation = generation.ending_with((tokenizer.eos_token_id,))
    if config.generation_config == "hfx":
        generation = generation.only_endings()
    return Words(
        name=config.served_model_name[0] if config.served_model_name else location.name,
        title=location.name,
        source=location.path,
        vocabulary=text.vocabulary,
        tokenizer=tokenizer,
        chat=chat,
        generation=generation,
    )
