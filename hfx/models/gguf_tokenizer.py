"""A tokenizer from a GGUF file's metadata: byte-level BPE ("gpt2") or sentencepiece BPE ("llama").

How a text is split before the merges isn't in the file, only the name of the way (`pre`): the
expressions below are those of the models' own tokenizers.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tokenizers import Regex, decoders, normalizers, pre_tokenizers
from tokenizers import Tokenizer as Pipeline
from tokenizers.models import BPE

from .tokenizer import SPACE_MARK, Tokenizer, added_tokens

KEY = "tokenizer.ggml."
CONTROL, USER_DEFINED = 3, 4  # token types that are matched whole
ROLE_KEYS = {
    "bos_token": "bos_token_id",
    "eos_token": "eos_token_id",
    "pad_token": "padding_token_id",
    "unk_token": "unknown_token_id",
}

WORDS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+"
MARKS = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
LLAMA3 = WORDS + r"|\p{N}{1,3}" + MARKS
QWEN2 = WORDS + r"|\p{N}" + MARKS
TEKKEN = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+"
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*"
    r"|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
SPLITS = {
    "llama-bpe": LLAMA3,
    "llama3": LLAMA3,
    "llama-v3": LLAMA3,
    "qwen2": QWEN2,
    "deepseek-r1-qwen": QWEN2,
    "tekken": TEKKEN,
}
SINGLE_DIGITS = ("smollm",)
GPT2 = ("default", "gpt-2", "gpt2")
WHOLE_WORDS_FIRST = ("llama-bpe", "llama3", "llama-v3", "tekken")
BOS_UNLESS_TOLD = ("llama-bpe", "llama3", "llama-v3", "tekken")


def tokenizer_from_metadata(metadata: Mapping[str, Any]) -> Tokenizer:
    """The tokenizer that the metadata describes.

    Raises:
        ValueError: its kind or its way of splitting isn't supported, or a part is missing or
            damaged; the message says what was found and what is supported.
    """
    kind = metadata.get(KEY + "model")
    if kind not in ("gpt2", "llama"):
        raise ValueError(
            f"{KEY}model is {kind!r}; supported: 'gpt2' (byte-level BPE) and 'llama' "
            "(sentencepiece BPE)"
        )
    tokens = _required(metadata, "tokens")
    pre = metadata.get(KEY + "pre", "default")
    pipeline = (
        _byte_level(metadata, tokens, pre) if kind == "gpt2" else _sentencepiece(metadata, tokens)
    )
    _add_whole_tokens(pipeline, metadata, tokens)
    special = {
        role: tokens[metadata[KEY + key]]
        for role, key in ROLE_KEYS.items()
        if 0 <= metadata.get(KEY + key, -1) < len(tokens)
    }
    add_bos = metadata.get(KEY + "add_bos_token", kind == "llama" or pre in BOS_UNLESS_TOLD)
    return Tokenizer(
        pipeline,
        special,
        add_bos=bool(add_bos) and "bos_token" in special,
        add_eos=bool(metadata.get(KEY + "add_eos_token", False)) and "eos_token" in special,
    )


def _required(metadata: Mapping[str, Any], key: str) -> Any:
    if KEY + key not in metadata:
        raise ValueError(f"metadata {KEY}{key} is missing: the file has no tokenizer")
    return metadata[KEY + key]


def _byte_level(metadata: Mapping[str, Any], tokens: list[str], pre: str) -> Pipeline:
    splitting = _splitting(pre)
    merges = [tuple(merge.split(" ", 1)) for merge in _required(metadata, "merges")]
    vocabulary = dict(zip(tokens, range(len(tokens)), strict=True))
    pipeline = _bpe(vocab=vocabulary, merges=merges, ignore_merges=pre in WHOLE_WORDS_FIRST)
    if pre in SPLITS and SPLITS[pre] is QWEN2:
        pipeline.normalizer = normalizers.NFC()
    pipeline.pre_tokenizer = splitting
    pipeline.decoder = decoders.ByteLevel()
    return pipeline


def _bpe(**options: Any) -> Pipeline:
    try:
        return Pipeline(BPE(**options))
    except Exception as error:  # the library raises bare Exception for merges that don't fit
        raise ValueError(f"{KEY}tokens and {KEY}merges don't go together ({error})") from error


def _splitting(pre: str) -> Any:
    if pre in GPT2:
        return pre_tokenizers.ByteLevel(add_prefix_space=False)
    if pre in SINGLE_DIGITS:
        return pre_tokenizers.Sequence(
            [
                pre_tokenizers.Digits(individual_digits=True),
                pre_tokenizers.ByteLevel(add_prefix_space=False),
            ]
        )
    if pre not in SPLITS:
        known = ", ".join((*GPT2, *SINGLE_DIGITS, *SPLITS))
        raise ValueError(f"{KEY}pre is {pre!r}; supported: {known}")
    return pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(SPLITS[pre]), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )


def _sentencepiece(metadata: Mapping[str, Any], tokens: list[str]) -> Pipeline:
    scores = _required(metadata, "scores")
    vocabulary = dict(zip(tokens, range(len(tokens)), strict=True))
    merges = _merges_from_scores(tokens, scores, vocabulary)
    pipeline = _bpe(vocab=vocabulary, merges=merges, fuse_unk=True, byte_fallback=True)
    prefix = bool(metadata.get(KEY + "add_space_prefix", True))
    pipeline.pre_tokenizer = pre_tokenizers.Metaspace(
        replacement=SPACE_MARK, prepend_scheme="first" if prefix else "never", split=False
    )
    parts: list[Any] = [decoders.Replace(SPACE_MARK, " "), decoders.ByteFallback(), decoders.Fuse()]
    if prefix:
        parts.append(decoders.Strip(content=" ", left=1))
    pipeline.decoder = decoders.Sequence(parts)
    return pipeline


def _merges_from_scores(
    tokens: list[str], scores: Any, vocabulary: Mapping[str, int]
) -> list[tuple[str, str]]:
    """Every way to put a token together from two others, best score first.

    Sentencepiece merges whatever pair of neighbours makes the token of the best score, so that the
    order of the scores is the order of the merges; of equal scores the longer halves go first.
    """
    found = []
    for token, score in zip(tokens, scores.tolist(), strict=True):
        for cut in range(1, len(token)):
            left, right = token[:cut], token[cut:]
            if left in vocabulary and right in vocabulary:
                found.append((score, len(left), len(right), left, right))
    found.sort(key=lambda merge: merge[:3], reverse=True)
    return [(left, right) for *_, left, right in found]


def _add_whole_tokens(pipeline: Pipeline, metadata: Mapping[str, Any], tokens: list[str]) -> None:
    types = metadata.get(KEY + "token_type")
    if types is None:
        return
    for kind in (CONTROL, USER_DEFINED):
        texts = [tokens[index] for index in (types == kind).nonzero()[0]]
        if kind == CONTROL:
            pipeline.add_special_tokens(added_tokens(texts, special=True))
        else:
            pipeline.add_tokens(added_tokens(texts, special=False))
