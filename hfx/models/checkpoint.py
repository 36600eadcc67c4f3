"""A model's weights and words as they lie on disk, whatever the format.

Tensors go by their Hugging Face names. Everything that can be refused is refused from headers,
before memory is spent.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from .chat import ChatTemplate
from .generation import GenerationDefaults
from .spec import DecoderSpec
from .tokenizer import Tokenizer

if TYPE_CHECKING:
    import torch

ALL = slice(None)
NAMED = 5  # tensor names that an error lists before it counts the rest


class Text(Protocol):
    """What a folder or file says of words, which are read without torch."""

    @property
    def path(self) -> Path:
        """The folder or file."""

    @property
    def vocabulary(self) -> int:
        """How many token ids the model knows: the embedding's rows."""

    def tokenizer(self) -> Tokenizer:
        """Its tokenizer."""

    def chat_template(self, tokenizer: Tokenizer, override: str | None) -> ChatTemplate | None:
        """Its chat template, or the one given instead, or None."""

    def generation(self) -> GenerationDefaults:
        """How its makers suggest to sample, and which tokens end an answer."""


class Checkpoint(Text, Protocol):
    """What the loader needs of a folder or file; opening one reads headers only."""

    @property
    def spec(self) -> DecoderSpec:
        """The decoder that its tensors make."""

    def read(
        self, name: str, out_RC: torch.Tensor, rows: slice = ALL, columns: slice = ALL
    ) -> None:
        """Fill `out_RC` (two-dimensional, any floating type) with that part of the named tensor.

        A vector is one row. Of a decoder's heads, `rows` take whole ones. Safe to call from several
        threads at once.
        """


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Puts the path before the message of every ValueError raised within.

    Whatever else foreign data makes the code within trip over becomes one too.
    """
    try:
        yield
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    except (ArithmeticError, AttributeError, LookupError, TypeError) as error:
        raise ValueError(
            f"{path}: a value in it is of the wrong type or out of range ({error})"
        ) from error


def check_tensors(
    spec: DecoderSpec, found: Mapping[str, tuple[int, ...]], ignored: Collection[str] = ()
) -> None:
    """Compare what the headers list with what the decoder needs.

    Raises:
        ValueError: tensors are missing, unexpected or of another shape.
    """
    wanted = spec.tensor_shapes()
    missing = [name for name in wanted if name not in found]
    if missing:
        raise ValueError(f"{len(missing)} tensors are missing: {_listed(missing)}")
    unexpected = [name for name in found if name not in wanted and name not in ignored]
    if unexpected:
        raise ValueError(
            f"{len(unexpected)} tensors have no place in a {spec.architecture} decoder of "
            f"{spec.layers} layers: {_listed(unexpected)}"
        )
    for name, shape in wanted.items():
        if found[name] != shape:
            raise ValueError(
                f"tensor {name!r} has shape {list(found[name])}; the configuration asks "
                f"for {list(shape)}"
            )


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return ", ".join(names[:NAMED]) + more
