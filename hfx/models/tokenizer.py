"""Text to token ids and back, and the exact bytes that each token stands for.

A `tokenizers` pipeline does the work; how one is put together from a folder or a GGUF file is said
in `hf_tokenizer` and `gguf_tokenizer`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from typing import Any, Literal

from tokenizers import AddedToken, processors
from tokenizers import Tokenizer as Pipeline

Spelling = Literal["byte-level", "sentencepiece", "plain"]
ROLES = ("bos_token", "eos_token", "pad_token", "unk_token")
BYTE_TOKEN = re.compile(r"<0x([0-9A-Fa-f]{2})>")
SPACE_MARK = "▁"
LONG_CHARACTERS = 8192


class Tokenizer:
    """One model's tokenizer. `special_tokens` maps roles (`bos_token`, ...) to token texts.

    `add_bos` and `add_eos` None keep what the pipeline's own post-processor does; a bool decides.

    Raises:
        ValueError: a special token isn't in the vocabulary.
    """

    def __init__(
        self,
        pipeline: Pipeline,
        special_tokens: Mapping[str, str],
        *,
        add_bos: bool | None = None,
        add_eos: bool | None = None,
    ) -> None:
        self.pipeline = pipeline
        self.special_tokens = dict(special_tokens)
        ids = {role: self._role_id(role) for role in ROLES}
        self.bos_token_id, self.eos_token_id, self.pad_token_id, self.unk_token_id = ids.values()
        pipeline.no_padding()
        pipeline.no_truncation()
        if add_bos is not None or add_eos is not None:
            self._frame(bool(add_bos), bool(add_eos))
        added = pipeline.get_added_tokens_decoder()
        self._added = {index: token.content for index, token in added.items()}
        named = {index for index in ids.values() if index is not None}
        self.special_ids = frozenset(named | {i for i, token in added.items() if token.special})

    @property
    def vocab_size(self) -> int:
        """One more than the largest token id."""
        return self._vocab_size

    @cached_property
    def _vocab_size(self) -> int:
        return max(self.pipeline.get_vocab(with_added_tokens=True).values()) + 1

    def encode(self, text: str, add_special_tokens: bool = True) -> list[int]:
        """The token ids of `text`; special tokens written in it are recognised."""
        if len(text) < LONG_CHARACTERS:
            return self.pipeline.encode(text, add_special_tokens=add_special_tokens).ids
        # Unlike `encode`, the batch form lets other threads run: a megabyte takes a second.
        return self.pipeline.encode_batch_fast([text], add_special_tokens=add_special_tokens)[0].ids

    def decode(self, token_ids: Sequence[int], skip_special_tokens: bool = True) -> str:
        """The text of the ids; bytes that are no valid UTF-8 become U+FFFD."""
        return self.pipeline.decode(list(token_ids), skip_special_tokens=skip_special_tokens)

    def token_text(self, token_id: int) -> str:
        """What one token says; U+FFFD stands for a part of a character."""
        return self.token_bytes(token_id).decode("utf-8", errors="replace")

    def token_bytes(self, token_id: int) -> bytes:
        """Exactly the bytes that one token adds to a text; none for an id without a token.

        Joined, the bytes of a text's tokens are its UTF-8 form. Sentencepiece puts a space before
        the first word: it's in the bytes, and `decode` drops it from the front of a text.
        """
        if token_id in self._added:
            return self._added[token_id].encode()
        token = self.pipeline.id_to_token(token_id)
        if token is None:
            return b""
        if self._spelling == "byte-level":
            return _spelled_bytes(token)
        if self._spelling == "sentencepiece":
            byte = BYTE_TOKEN.fullmatch(token)
            if byte:
                return bytes([int(byte[1], 16)])
            return token.replace(SPACE_MARK, " ").encode()
        return token.encode()

    @cached_property
    def _spelling(self) -> Spelling:
        decoder = self.pipeline.decoder
        # The only view of a decoder's parts that the library gives is its pickle, which is JSON.
        parts = _type_names(json.loads(decoder.__getstate__())) if decoder is not None else set()
        if "ByteLevel" in parts:
            return "byte-level"
        if parts & {"ByteFallback", "Metaspace"}:
            return "sentencepiece"
        return "plain"

    def _role_id(self, role: str) -> int | None:
        text = self.special_tokens.get(role)
        if text is None:
            return None
        token_id: int | None = self.pipeline.token_to_id(text)
        if token_id is None:
            raise ValueError(f"the tokenizer's {role} {text!r} is not in its vocabulary")
        return token_id

    def _frame(self, add_bos: bool, add_eos: bool) -> None:
        """Put these tokens around every text, instead of what the pipeline would."""
        before = self._framing("bos_token", self.bos_token_id, add_bos)
        after = self._framing("eos_token", self.eos_token_id, add_eos)
        single = [*(text for text, _ in before), "$A", *(text for text, _ in after)]
        self.pipeline.post_processor = processors.TemplateProcessing(
            single=single, special_tokens=before + after
        )

    def _framing(self, role: str, token_id: int | None, wanted: bool) -> list[tuple[str, int]]:
        if not wanted:
            return []
        if token_id is None:
            raise ValueError(f"the tokenizer is told to add a {role} and names none")
        return [(self.special_tokens[role], token_id)]


def added_tokens(texts: Iterable[str], *, special: bool) -> list[AddedToken]:
    """Tokens to be matched whole, before anything splits the text."""
    return [AddedToken(text, normalized=False, special=special) for text in texts]


def _type_names(part: Any) -> set[str]:
    """The `type` of a serialised pipeline part and of all its members."""
    if isinstance(part, list):
        return set().union(*map(_type_names, part))
    if not isinstance(part, dict):
        return set()
    own = {part["type"]} if isinstance(part.get("type"), str) else set()
    return own.union(*map(_type_names, part.values()))


def _byte_alphabet() -> dict[str, int]:
    """GPT-2's letters for the 256 bytes: printable ones stand for themselves, the rest follow."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    letters = {chr(byte): byte for byte in printable}
    return letters | {chr(0x100 + order): byte for order, byte in enumerate(others)}


BYTE_OF_LETTER = _byte_alphabet()


def _spelled_bytes(token: str) -> bytes:
    if not all(letter in BYTE_OF_LETTER for letter in token):
        return token.encode()
    return bytes(BYTE_OF_LETTER[letter] for letter in token)
