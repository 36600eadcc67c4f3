"""Token ids and texts against transformers' tokenizers, from GGUF metadata and from folders."""

from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoTokenizer

from hfx.models import LoadedModel
from hfx.models.gguf_file import open_gguf
from hfx.models.gguf_tokenizer import tokenizer_from_metadata
from hfx.models.hf_tokenizer import tokenizer_from_folder

TEXTS = (
    "The capital of France is",
    "",
    " ",
    "   three leading spaces and a trailing one ",
    "line\n\nline\r\n\ttab\t\t  end",
    "numbers 7 42 1234567890 3.14159 1,000,000 0x1F 2024-11-24",
    "it's we're I'll DON'T l'été o’clock",
    'def f(x: int) -> str:\n    return f"{x!r:>10}"  # comment\n',
    "naïve café Zürich Ångström œuvre",
    "Ελληνικά русский العربية עברית हिन्दी ไทย 中文 日本語 한국어",
    "🎉 👩‍👩‍👧‍👦 🇫🇷 👍🏽 emoji",
    "math ∑∫√∞ ≠",
    "zero​width joiner‍ nbsp here bom﻿",
    "<|im_start|>user\nHi<|im_end|>\n<|endoftext|>",
    "almost <|im_start special |> tokens <im_end>",
    "https://example.org/a?b=c&d=%20#frag user@mail.org",
    "AAAAaaaa" * 20 + "!!!???...---___",
    "\x00\x01\x7f control",
)


@pytest.fixture(scope="module")
def reference(bundled_path: Path) -> Any:
    return AutoTokenizer.from_pretrained(bundled_path.parent, gguf_file=bundled_path.name)


@pytest.fixture(scope="module")
def ours(bundled_path: Path) -> Any:
    return tokenizer_from_metadata(open_gguf(bundled_path).metadata)


@pytest.mark.parametrize("text", TEXTS)
def test_ids_and_text_of_the_bundled_tokenizer_are_those_of_transformers(
    text: str, ours: Any, reference: Any
) -> None:
    ids = ours.encode(text)

    assert ids == reference(text)["input_ids"]
    for skip in (True, False):
        assert ours.decode(ids, skip_special_tokens=skip) == reference.decode(
            ids, skip_special_tokens=skip
        )


def test_digits_of_every_script_stand_alone_as_in_the_original_tokenizer(
    ours: Any, reference: Any
) -> None:
    text = "¹²³ ½ Ⅷ ١٢٣ 1٢3"
    # transformers ignores `pre = smollm` and so what SmolLM2's own tokenizer.json does first.
    splitting = [
        pre_tokenizers.Digits(individual_digits=True),
        pre_tokenizers.ByteLevel(add_prefix_space=False),
    ]
    original = Tokenizer.from_str(reference.backend_tokenizer.to_str())
    original.pre_tokenizer = pre_tokenizers.Sequence(splitting)

    assert ours.encode(text) == original.encode(text).ids


def test_the_documented_prompt_has_its_documented_ids(bundled: LoadedModel) -> None:
    assert bundled.tokenizer.encode("The capital of France is") == [504, 3575, 282, 4649, 314]


@pytest.mark.parametrize("text", TEXTS)
def test_token_bytes_joined_are_the_text(text: str, ours: Any) -> None:
    assert b"".join(map(ours.token_bytes, ours.encode(text))) == text.encode()


def test_special_tokens_of_the_bundled_tokenizer(ours: Any) -> None:
    assert (ours.bos_token_id, ours.eos_token_id, ours.pad_token_id) == (1, 2, 2)
    assert ours.special_ids == frozenset(range(17))
    assert ours.vocab_size == 49152
    assert ours.token_text(2) == "<|im_end|>"
    assert ours.token_bytes(60000) == b""


def test_a_part_of_a_character_has_its_own_bytes_and_a_replacement_as_text(ours: Any) -> None:
    ids = ours.encode("🎉")

    assert len(ids) > 1
    assert ours.token_text(ids[-1]) == "�"
    assert b"".join(map(ours.token_bytes, ids)).decode() == "🎉"


def _byte_level_folder(folder: Path, **config: Any) -> Path:
    """A folder with a small trained byte-level tokenizer, saved by transformers."""
    from transformers import PreTrainedTokenizerFast

    pipeline = Tokenizer(models.BPE())
    pipeline.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    pipeline.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=["<s>", "</s>"], initial_alphabet=alphabet
    )
    pipeline.train_from_iterator(TEXTS, trainer)
    pipeline.add_tokens([AddedToken("<think>", special=False)])
    PreTrainedTokenizerFast(
        tokenizer_object=pipeline, bos_token="<s>", eos_token="</s>", **config
    ).save_pretrained(folder)
    return folder


@pytest.mark.parametrize(
    "config", [{}, {"add_bos_token": True}, {"add_bos_token": True, "add_eos_token": True}]
)
def test_a_folder_says_which_tokens_go_around_a_text(
    config: dict[str, Any], tmp_path: Path
) -> None:
    folder = _byte_level_folder(tmp_path, **config)
    theirs = AutoTokenizer.from_pretrained(folder)

    tokenizer = tokenizer_from_folder(folder)

    for text in TEXTS:
        assert tokenizer.encode(text) == theirs(text)["input_ids"]
        plain = tokenizer.encode(text, add_special_tokens=False)
        assert plain == theirs(text, add_special_tokens=False)["input_ids"]
    assert (tokenizer.encode("x")[0] == 0) == bool(config.get("add_bos_token"))
    assert tokenizer.eos_token_id == 1


def test_an_added_token_that_is_not_special_keeps_its_text(tmp_path: Path) -> None:
    tokenizer = tokenizer_from_folder(_byte_level_folder(tmp_path))

    ids = tokenizer.encode("a<think>b")

    assert tokenizer.decode(ids) == "a<think>b"
    assert tokenizer.token_bytes(ids[1]) == b"<think>"
    assert ids[1] not in tokenizer.special_ids


def test_a_damaged_tokenizer_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text('{"version": "1.0"')

    with pytest.raises(ValueError, match=r"tokenizer\.json: not a tokenizer"):
        tokenizer_from_folder(tmp_path)


def test_a_special_token_outside_the_vocabulary_is_named(tmp_path: Path) -> None:
    folder = _byte_level_folder(tmp_path)
    (folder / "tokenizer_config.json").write_text('{"eos_token": "<gone>"}')

    with pytest.raises(ValueError, match=r"eos_token '<gone>' is not in its vocabulary"):
        tokenizer_from_folder(folder)


PIECES = (
    "▁the",
    "▁th",
    "th",
    "he",
    "▁t",
    "er",
    "in",
    "▁in",
    "ing",
    "▁a",
    "an",
    "▁an",
    "nd",
    "▁and",
)


@pytest.fixture(scope="module")
def sentencepiece_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A GGUF file with a sentencepiece vocabulary: bytes, letters, and a few longer pieces."""
    letters = sorted({"▁", *"abcdefghijklmnopqrstuvwxyz.,!"})
    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    types = [2, 3, 3, *[6] * 256, *[1] * (len(PIECES) + len(letters))]
    tokens += [*PIECES, *letters]
    scores = [0.0] * 259 + [-float(i) for i in range(len(PIECES) + len(letters))]
    path = tmp_path_factory.mktemp("spm") / "model.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_tokenizer_model("llama")
    writer.add_token_list(tokens)
    writer.add_token_scores(scores)
    writer.add_token_types(types)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(0)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    return path


@pytest.mark.parametrize("text", [text for text in TEXTS if "\x00" not in text])
def test_a_sentencepiece_vocabulary_gives_the_ids_of_transformers(
    text: str, sentencepiece_file: Path
) -> None:
    theirs = AutoTokenizer.from_pretrained(
        sentencepiece_file.parent, gguf_file=sentencepiece_file.name
    )

    tokenizer = tokenizer_from_metadata(open_gguf(sentencepiece_file).metadata)

    ids = tokenizer.encode(text)
    assert ids == theirs(text)["input_ids"]
    assert ids[0] == tokenizer.bos_token_id == 1
    assert tokenizer.decode(ids) == theirs.decode(ids, skip_special_tokens=True)


def test_sentencepiece_bytes_and_spaces_are_exact(sentencepiece_file: Path) -> None:
    tokenizer = tokenizer_from_metadata(open_gguf(sentencepiece_file).metadata)

    ids = tokenizer.encode("the 🎉 inn", add_special_tokens=False)

    assert b"".join(map(tokenizer.token_bytes, ids)) == " the 🎉 inn".encode()
    assert tokenizer.token_text(ids[0]) == " the"


@pytest.mark.parametrize(
    ("metadata", "expected"),
    [
        ({"model": "t5"}, "tokenizer.ggml.model is 't5'; supported: 'gpt2'"),
        ({"model": "gpt2", "tokens": ["a"], "pre": "chameleon"}, "pre is 'chameleon'; supported:"),
        ({"model": "gpt2"}, "tokenizer.ggml.tokens is missing"),
        ({"model": "gpt2", "tokens": ["a"]}, "tokenizer.ggml.merges is missing"),
        ({"model": "llama", "tokens": ["a"]}, "tokenizer.ggml.scores is missing"),
        ({"model": "gpt2", "tokens": ["a"], "merges": ["a b"]}, "merges don't go together"),
    ],
)
def test_metadata_without_a_supported_tokenizer_is_refused(
    metadata: dict[str, Any], expected: str
) -> None:
    named = {f"tokenizer.ggml.{key}": value for key, value in metadata.items()}

    with pytest.raises(ValueError) as caught:
        tokenizer_from_metadata(named)

    assert expected in str(caught.value)


@pytest.mark.parametrize(
    ("pre", "text", "pieces"),
    [
        ("llama-bpe", "in 12345", [b"in", b" ", b"123", b"45"]),
        ("qwen2", "in 123", [b"in", b" ", b"1", b"2", b"3"]),
        ("smollm", "in 123", [b"in", b" ", b"1", b"2", b"3"]),
        ("default", "in 123", [b"in", b" 123"]),
    ],
)
def test_each_way_of_splitting_numbers(pre: str, text: str, pieces: list[bytes]) -> None:
    """With all merges of digits in the vocabulary, the splitting alone decides."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    chains = ("in", "12", "123", "45", "Ġ1", "Ġ12", "Ġ123")
    merges = ["i n", "1 2", "12 3", "4 5", "Ġ 1", "Ġ1 2", "Ġ12 3", "Ġ 12", "Ġ 123"]
    tokens = [*alphabet, *chains]
    metadata = {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": pre,
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.merges": merges,
        "tokenizer.ggml.token_type": np.ones(len(tokens), np.int32),
    }

    tokenizer = tokenizer_from_metadata(metadata)

    assert [tokenizer.token_bytes(i) for i in tokenizer.encode(text)] == pieces
