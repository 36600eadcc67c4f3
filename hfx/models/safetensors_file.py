"""The tensors of safetensors files, found from their headers and read through a mapping.

Offsets and sizes are bytes. Layout: 8 bytes of header length, a JSON header, then the data.
"""

from __future__ import annotations

import json
import mmap
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from .dequantize import SLICE_NUMBERS

DTYPES = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
MAX_HEADER_BYTES = 100_000_000  # the format's own limit


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """Where one tensor lies: `offset` counts from the start of `file`."""

    file: Path
    shape: tuple[int, ...]
    dtype: torch.dtype
    offset: int
    nbytes: int


class SafetensorsFiles:
    """The tensors of one or several files by name; headers are read, and nothing else yet.

    Raises:
        ValueError: a file is truncated, damaged, or holds numbers of an unsupported type; the
            message names the file, and sizes where they matter.
        OSError: a file can't be opened.
    """

    def __init__(self, files: Iterable[Path]) -> None:
        self.tensors: dict[str, StoredTensor] = {}
        self._data: dict[Path, torch.Tensor] = {}
        for file in files:
            self.tensors.update(_read_header(file))
            self._data[file] = _map(file)

    def read(self, name: str, out: torch.Tensor, rows: slice, columns: slice) -> None:
        """Copy rows and columns of the tensor into `out`, as large, rounding to its type.

        Of the file only what is copied is touched, in whole pages.
        """
        stored = self.tensors[name]
        raw = self._data[stored.file][stored.offset : stored.offset + stored.nbytes]
        raw = raw.view(stored.shape[0] if len(stored.shape) > 1 else 1, -1)[rows]
        if raw.data_ptr() % stored.dtype.itemsize:
            raw = raw.clone()
        values = raw.view(stored.dtype)[:, columns]
        # In slices that torch copies on this thread: several threads read at once.
        count = max(1, SLICE_NUMBERS // out.shape[1])
        for start in range(0, len(out), count):
            out[start : start + count] = values[start : start + count]


def _map(file: Path) -> torch.Tensor:
    with file.open("rb") as opened:
        # A private writable mapping, because torch warns of memory that it can't write to.
        mapping = mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_COPY)
    return torch.frombuffer(mapping, dtype=torch.uint8)


def _read_header(file: Path) -> dict[str, StoredTensor]:
    size = file.stat().st_size
    with file.open("rb") as opened:
        length = int.from_bytes(opened.read(8), "little")
        if size < 8 or length > min(size - 8, MAX_HEADER_BYTES):
            raise ValueError(
                f"{file}: {size} bytes, too short for the header of {length} bytes that it "
                "announces: truncated, or no safetensors file"
            )
        text = opened.read(length)
    try:
        entries: dict[str, Any] = json.loads(text)
    except ValueError as error:
        raise ValueError(f"{file}: its header isn't JSON ({error}): damaged") from error
    entries.pop("__metadata__", None)
    return {name: _stored(file, name, entry, 8 + length, size) for name, entry in entries.items()}


def _stored(file: Path, name: str, entry: Any, start: int, size: int) -> StoredTensor:
    try:
        kind, shape, (begin, end) = entry["dtype"], tuple(entry["shape"]), entry["data_offsets"]
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{file}: the header's entry for {name!r} is damaged") from error
    if kind not in DTYPES:
        raise ValueError(
            f"{file}: tensor {name!r} holds {kind}; supported: {', '.join(DTYPES)} (no quantised "
            "weights)"
        )
    if begin < 0 or start + end > size:
        raise ValueError(
            f"{file}: truncated: tensor {name!r} ends at byte {start + end}, and the file has "
            f"{size}: download it again"
        )
    dtype = DTYPES[kind]
    elements = int(torch.Size(shape).numel())
    if end - begin != elements * dtype.itemsize:
        raise ValueError(
            f"{file}: tensor {name!r} of shape {list(shape)} in {kind} needs "
            f"{elements * dtype.itemsize} bytes, and its entry spans {end - begin}: damaged"
        )
    return StoredTensor(file, shape, dtype, start + begin, end - begin)
