"""Reads request traces: Azure's CSV, Mooncake's JSON lines, and this project's CSV; plain or .gz.

Arrivals are seconds from the first row, lengths tokens. A block of `hash_ids` is 512 tokens.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

BLOCK_TOKENS = 512  # that one of Mooncake's hash ids stands for

_AZURE = {"TIMESTAMP", "ContextTokens", "GeneratedTokens"}
_OURS = {"input_tokens", "output_tokens"}
_FORMATS = (
    "Azure's CSV (TIMESTAMP,ContextTokens,GeneratedTokens), Mooncake's JSON lines (timestamp, "
    "input_length, output_length, hash_ids), or CSV with [arrival_s,]input_tokens,output_tokens"
    "[,hash_ids]"
)


@dataclass(frozen=True, slots=True)
class Row:
    """One request of a trace. Rows whose first hash ids agree share a prompt's beginning."""

    arrival_s: float | None
    input_tokens: int
    output_tokens: int
    hash_ids: tuple[int, ...] = ()

    def cut(self, input_tokens: int | None, output_tokens: int | None) -> Row:
        """The same row with lengths of at most these; None leaves one as it is."""
        inputs = min(self.input_tokens, input_tokens or self.input_tokens)
        outputs = min(self.output_tokens, output_tokens or self.output_tokens)
        blocks = -(-inputs // BLOCK_TOKENS)
        return Row(self.arrival_s, inputs, outputs, self.hash_ids[:blocks])


def read_trace(path: Path) -> list[Row]:
    """Every row in order of arrival; the format is known by its first line.

    Raises:
        ValueError: a row can't be read; the message names file, line, value and cure.
    """
    lines = _lines(path)
    if not (first := next((line for line in lines if line.strip()), "")):
        raise ValueError(f"{path} is empty: a trace is {_FORMATS}")
    parsed = _mooncake(path, lines) if first.lstrip().startswith("{") else _table(path, lines)
    rows = sorted(parsed, key=lambda row: row.arrival_s or 0.0)
    if not rows:
        raise ValueError(f"{path} has a header but no rows: nothing to replay")
    zero_s = rows[0].arrival_s
    if zero_s is None:
        return rows
    return [replace(row, arrival_s=(row.arrival_s or 0.0) - zero_s) for row in rows]


def _lines(path: Path) -> list[str]:
    raw = path.read_bytes()
    try:
        text = gzip.decompress(raw) if raw.startswith(b"\x1f\x8b") else raw
        return text.decode("utf-8-sig").splitlines()
    except (EOFError, gzip.BadGzipFile) as error:
        raise ValueError(f"{path} is a broken .gz file ({error}): fetch it again") from None
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is no text in UTF-8 ({error}): a trace is {_FORMATS}") from None


def _table(path: Path, lines: Iterable[str]) -> Iterator[Row]:
    reader = csv.DictReader(io.StringIO("\n".join(lines)))
    columns = set(reader.fieldnames or ())
    if columns >= _AZURE:
        read = _azure_row
    elif columns >= _OURS:
        read = _our_row
    else:
        shown = ",".join(reader.fieldnames or ())[:200]
        raise ValueError(f"{path}, line 1: columns are {shown!r}: a trace is {_FORMATS}")
    for fields in reader:
        yield _checked(path, reader.line_num, read, fields)


def _mooncake(path: Path, lines: Iterable[str]) -> Iterator[Row]:
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            fields = json.loads(line)
        except json.JSONDecodeError as error:
            raise ValueError(f"{path}, line {number}: no JSON ({error}): mend or drop it") from None
        if not isinstance(fields, dict):
            raise ValueError(f"{path}, line {number}: no JSON object: mend or drop it")
        yield _checked(path, number, _mooncake_row, fields)


def _checked(path: Path, number: int, read: Any, fields: Mapping[str, Any]) -> Row:
    try:
        row: Row = read(fields)
    except _Wrong as wrong:
        raise ValueError(f"{path}, line {number}: {wrong}; mend or drop the line") from None
    return row


class _Wrong(Exception):
    """What is wrong with one field."""


def _azure_row(fields: Mapping[str, Any]) -> Row:
    return Row(
        _timestamp_s(fields["TIMESTAMP"]),
        _count(fields, "ContextTokens"),
        _count(fields, "GeneratedTokens"),
    )


def _our_row(fields: Mapping[str, Any]) -> Row:
    return Row(
        _seconds(fields, "arrival_s") if "arrival_s" in fields else None,
        _count(fields, "input_tokens"),
        _count(fields, "output_tokens"),
        _hashes((fields.get("hash_ids") or "").split()),
    )


def _mooncake_row(fields: Mapping[str, Any]) -> Row:
    hashes = fields.get("hash_ids") or []
    if not isinstance(hashes, list):
        raise _Wrong(f"hash_ids is {hashes!r}: it must be a list of whole numbers")
    return Row(
        _seconds(fields, "timestamp") / 1e3,
        _count(fields, "input_length"),
        _count(fields, "output_length"),
        _hashes(hashes),
    )


def _count(fields: Mapping[str, Any], name: str) -> int:
    value = fields.get(name)
    try:
        count = int(value) if not isinstance(value, bool) else None  # type: ignore[arg-type]
    except (TypeError, ValueError):
        count = None
    if count is None or count < 1:
        raise _Wrong(f"{name} is {value!r}: it must be a whole number of at least 1")
    return count


def _seconds(fields: Mapping[str, Any], name: str) -> float:
    value = fields.get(name)
    try:
        seconds = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        seconds = -1.0
    if not 0 <= seconds < float("inf"):
        raise _Wrong(f"{name} is {value!r}: it must be a number of at least 0")
    return seconds


def _timestamp_s(value: Any) -> float:
    try:
        moment = datetime.fromisoformat(value)
    except (TypeError, ValueError):
        raise _Wrong(f"TIMESTAMP is {value!r}: it must look like 2023-11-16 18:15:46.68") from None
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()


def _hashes(values: Iterable[Any]) -> tuple[int, ...]:
    try:
        return tuple(int(value) for value in values)
    except (TypeError, ValueError):
        raise _Wrong("hash_ids must be whole numbers") from None
