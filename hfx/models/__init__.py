"""Models: dense decoders on `hfx.kernels`, their tokenizers and templates, from files to ready.

Names load on first use, so that who wants words only imports no torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .chat import ChatTemplate as ChatTemplate
    from .decoder import Decoder as Decoder
    from .generation import GenerationDefaults as GenerationDefaults
    from .group import ALONE as ALONE
    from .group import Group as Group
    from .group import Membership as Membership
    from .hub import ModelLocation as ModelLocation
    from .hub import resolve as resolve
    from .loading import DTYPES as DTYPES
    from .loading import LoadedModel as LoadedModel
    from .loading import load as load
    from .loading import load_decoder as load_decoder
    from .memory import available_bytes as available_bytes
    from .spec import DecoderSpec as DecoderSpec
    from .tokenizer import Tokenizer as Tokenizer
    from .words import Words as Words
    from .words import load_words as load_words

_HOME = {
    "ALONE": "group",
    "ChatTemplate": "chat",
    "DTYPES": "loading",
    "Decoder": "decoder",
    "DecoderSpec": "spec",
    "GenerationDefaults": "generation",
    "Group": "group",
    "LoadedModel": "loading",
    "Membership": "group",
    "ModelLocation": "hub",
    "Tokenizer": "tokenizer",
    "Words": "words",
    "available_bytes": "memory",
    "load": "loading",
    "load_decoder": "loading",
    "load_words": "words",
    "resolve": "hub",
}

__all__ = sorted(_HOME)


if not TYPE_CHECKING:  # a type checker should see the names above, not "anything goes"

    def __getattr__(name: str) -> object:
        if name not in _HOME:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        value = getattr(import_module(f".{_HOME[name]}", __name__), name)
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    return sorted(set(globals()) | set(_HOME))
