"""Models: dense decoders on `hfx.kernels`, their tokenizers and templates, from files to ready."""

from .chat import ChatTemplate
from .decoder import Decoder
from .generation import GenerationDefaults
from .hub import ModelLocation, resolve
from .loading import DTYPES, LoadedModel, load
from .memory import available_bytes
from .spec import DecoderSpec
from .tokenizer import Tokenizer

__all__ = [
    "DTYPES",
    "ChatTemplate",
    "Decoder",
    "DecoderSpec",
    "GenerationDefaults",
    "LoadedModel",
    "ModelLocation",
    "Tokenizer",
    "available_bytes",
    "load",
    "resolve",
]
