"""What a GGUF file holds, read straight from its bytes: metadata and where each tensor lies.

Offsets and sizes are bytes. The file is mapped, not read: only what is asked for is touched.
Layout: github.com/ggml-org/ggml/blob/master/docs/gguf.md, versions 2 and 3, little-endian.
"""

from __future__ import annotations

import math
import mmap
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from .gguf_blocks import block_shape

if TYPE_CHECKING:
    import torch

MAGIC = b"GGUF"
VERSIONS = (2, 3)
STRING, ARRAY, BOOL = 8, 9, 7
SCALARS = {
    0: "B",
    1: "b",
    2: "H",
    3: "h",
    4: "I",
    5: "i",
    6: "f",
    BOOL: "?",
    10: "Q",
    11: "q",
    12: "d",
}


@dataclass(frozen=True, slots=True)
class GgufTensor:
    """One tensor; `shape` is row-major (the file's reversed), `offset` counts from the start."""

    name: str
    shape: tuple[int, ...]
    kind: int
    offset: int
    nbytes: int


@dataclass(frozen=True, slots=True, eq=False)
class GgufFile:
    """An open GGUF file, mapped at `data`."""

    path: Path
    metadata: Mapping[str, Any]
    tensors: Mapping[str, GgufTensor]
    data: mmap.mmap

    def raw(self, name: str) -> torch.Tensor:
        """The tensor's stored bytes as uint8 [rows, bytes of a row]; no copy.

        Raises:
            KeyError: there's no such tensor.
        """
        import torch  # here: who reads words only, needs none

        tensor = self.tensors[name]
        rows = 1 if len(tensor.shape) < 2 else math.prod(tensor.shape[:-1])
        whole = torch.frombuffer(self.data, dtype=torch.uint8)
        return whole[tensor.offset : tensor.offset + tensor.nbytes].view(rows, -1)


def open_gguf(path: Path) -> GgufFile:
    """Map the file and parse its header; no tensor is read.

    Raises:
        ValueError: it isn't a GGUF file that can be read, it's truncated, or it's one part of
            several; the message names the file and says what to do.
        OSError: it can't be opened.
    """
    size = path.stat().st_size
    if size < 24:
        raise ValueError(f"{path}: {size} bytes is too short for a GGUF file")
    with path.open("rb") as file:
        # A private writable mapping, because torch warns of memory that it can't write to.
        mapping = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
    _check_start(mapping, path)
    try:
        header = _Header(mapping)
    except (struct.error, OverflowError, UnicodeDecodeError) as error:
        raise ValueError(
            f"{path}: its header ends early or is damaged ({error}); the file has {size} bytes: "
            "download it again"
        ) from error
    _check_parts(header.metadata, path)
    tensors = _locate(header, path, size)
    return GgufFile(path, header.metadata, tensors, mapping)


def _check_start(mapping: mmap.mmap, path: Path) -> None:
    if mapping[:4] != MAGIC:
        raise ValueError(
            f"{path}: starts with {mapping[:4]!r} and not with {MAGIC!r}: no GGUF file"
        )
    version = int.from_bytes(mapping[4:8], "little")
    if version not in VERSIONS and int.from_bytes(mapping[4:8], "big") in VERSIONS:
        raise ValueError(f"{path}: a big-endian GGUF file; supported: little-endian")
    if version not in VERSIONS:
        raise ValueError(f"{path}: GGUF version {version}; supported: 2 and 3")


def _check_parts(metadata: Mapping[str, Any], path: Path) -> None:
    parts = metadata.get("split.count", 1)
    if parts > 1:
        raise ValueError(
            f"{path}: part {metadata.get('split.no', 0) + 1} of {parts} of a split GGUF file; "
            "supported: one file (join the parts with llama.cpp's `llama-gguf-split --merge`)"
        )


class _Header:
    """A single pass over the header; afterwards `position` is where it ended."""

    def __init__(self, mapping: mmap.mmap) -> None:
        self._bytes = mapping
        self.position = 8
        tensors, pairs = self._unpack("<QQ")
        self.metadata: dict[str, Any] = {}
        for _ in range(pairs):
            key = self._string()
            self.metadata[key] = self._value(self._unpack("<I")[0])
        self.tensors = [self._tensor() for _ in range(tensors)]

    def _unpack(self, form: str) -> tuple[Any, ...]:
        values = struct.unpack_from(form, self._bytes, self.position)
        self.position += struct.calcsize(form)
        return values

    def _string(self) -> str:
        return self._strings(1)[0]

    def _strings(self, count: int) -> list[str]:
        # The vocabulary and its merges are 100,000 strings: local names halve the time.
        data, position, unpack = self._bytes, self.position, struct.Struct("<Q").unpack_from
        strings = []
        for _ in range(count):
            start = position + 8
            position = start + unpack(data, position)[0]
            strings.append(str(data[start:position], "utf-8"))
        if position > len(data):
            raise struct.error(f"a string ends at byte {position}")
        self.position = position
        return strings

    def _value(self, kind: int) -> Any:
        if kind == STRING:
            return self._string()
        if kind == ARRAY:
            return self._array()
        if kind not in SCALARS:
            raise struct.error(f"value type {kind} at byte {self.position}")
        return self._unpack("<" + SCALARS[kind])[0]

    def _array(self) -> Any:
        kind, count = self._unpack("<IQ")
        if kind == STRING:
            return self._strings(count)
        if kind == ARRAY:
            return [self._array() for _ in range(count)]
        if kind not in SCALARS:
            raise struct.error(f"array type {kind} at byte {self.position}")
        form = np.dtype("<" + SCALARS[kind])
        end = self.position + count * form.itemsize
        if end > len(self._bytes):
            raise struct.error(f"an array ends at byte {end}")
        values = np.frombuffer(self._bytes, form, count, self.position).copy()
        self.position = end
        return values

    def _tensor(self) -> tuple[str, tuple[int, ...], int, int]:
        name = self._string()
        dimensions = self._unpack("<I")[0]
        if dimensions > 4:
            raise struct.error(f"tensor {name!r} has {dimensions} dimensions")
        shape = self._unpack(f"<{dimensions}Q")
        kind, offset = self._unpack("<IQ")
        return name, tuple(reversed(shape)), kind, offset


def _locate(header: _Header, path: Path, size: int) -> dict[str, GgufTensor]:
    alignment = header.metadata.get("general.alignment", 32)
    if not isinstance(alignment, int) or alignment < 1:
        raise ValueError(
            f"{path}: general.alignment is {alignment!r}: a positive integer is needed"
        )
    start = -(-header.position // alignment) * alignment
    tensors = {}
    for name, shape, kind, offset in header.tensors:
        try:
            elements, nbytes = block_shape(kind)
        except ValueError as error:
            raise ValueError(f"{path}: tensor {name!r}: {error}") from error
        count = math.prod(shape)
        if shape and shape[-1] % elements:
            raise ValueError(
                f"{path}: tensor {name!r} has rows of {shape[-1]}, no multiple of the {elements} "
                "numbers of a block"
            )
        tensor = GgufTensor(name, shape, kind, start + offset, count // elements * nbytes)
        end = tensor.offset + tensor.nbytes
        if end > size:
            raise ValueError(
                f"{path}: truncated: tensor {name!r} ends at byte {end}, and the file has {size}: "
                "download it again"
            )
        tensors[name] = tensor
    return tensors
