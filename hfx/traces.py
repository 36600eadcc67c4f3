"""Reads request traces: this project's CSV and the forms that publishers use; plain or .gz.

Arrivals are seconds from the first row, lengths tokens. A block of `hash_ids` is 512 tokens.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

BLOCK_TOKENS = 512  # that one of Mooncake's hash ids stands for
LEAST_TICKS = 20  # distinct times: fewer may lie on a grid by chance

_FORMATS = (
    "CSV with [arrival_s,]input_tokens,output_tokens[,hash_ids], or what its publisher wrote: "
    "Azure's CSV (TIMESTAMP,ContextTokens,GeneratedTokens), BurstGPT's (Timestamp,Request tokens,"
    "Response tokens), ServeGen's (timestamp,input_tokens,output_tokens), Vidur's ([arrived_at,]"
    "num_prefill_tokens,num_decode_tokens), splitwise-sim's (arrival_timestamp,prompt_size,"
    "token_size), Mooncake's JSON lines (timestamp, input_length, output_length, hash_ids)"
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


def tick_s(rows: Sequence[Row]) -> float:
    """The grid on which all arrivals lie where it is as coarse as a second or more, else 0.

    Such a clock (Mooncake's has ticks of 3 s) was rounded by the publisher: whoever replays it
    spreads arrivals over their tick. Traces of less than 20 distinct times are taken at their word.
    """
    times = {row.arrival_s for row in rows}
    if len(times) < LEAST_TICKS or None in times:
        return 0.0
    step_ms = math.gcd(*(round((time or 0.0) * 1e3) for time in times))
    exact = all(abs((time or 0.0) * 1e3 - round((time or 0.0) * 1e3)) < 1e-6 for time in times)
    return step_ms / 1e3 if exact and step_ms >= 1000 else 0.0


def _lines(path: Path) -> list[str]:
    raw = path.read_bytes()
    try:
        text = gzip.decompress(raw) if raw.startswith(b"\x1f\x8b") else raw
        return text.decode("utf-8-sig").splitlines()
    except (EOFError, gzip.BadGzipFile) as error:
        raise ValueError(f"{path} is a broken .gz file ({error}): fetch it again") from None
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is no text in UTF-8 ({error}): a trace is {_FORMATS}") from None


@dataclass(frozen=True, slots=True)
class _Form:
    """The columns of one publisher's table. `skips_empty`: rows of 0 tokens are failed requests."""

    inputs: str
    outputs: str
    arrival: str
    clock_s: Callable[[Mapping[str, Any], str], float]
    has_clock: bool = True  # always, or it is another table
    skips_empty: bool = True

    def fits(self, columns: set[str]) -> bool:
        needs = {self.inputs, self.outputs} | ({self.arrival} if self.has_clock else set())
        return needs <= columns

    def row(self, fields: Mapping[str, Any]) -> Row | None:
        """The row; None where the publisher says that nothing was served."""
        if self.skips_empty and "0" in (fields[self.inputs], fields[self.outputs]):
            return None
        return Row(
            self.clock_s(fields, self.arrival) if self.arrival in fields else None,
            _count(fields, self.inputs),
            _count(fields, self.outputs),
            _hashes((fields.get("hash_ids") or "").split()),
        )


def _table(path: Path, lines: Iterable[str]) -> Iterator[Row]:
    reader = csv.DictReader(io.StringIO("\n".join(lines)))
    columns = set(reader.fieldnames or ())
    form = next((form for form in _FORMS if form.fits(columns)), None)
    if form is None:
        shown = ",".join(reader.fieldnames or ())[:200]
        raise ValueError(f"{path}, line 1: columns are {shown!r}: a trace is {_FORMATS}")
    for fields in reader:
        if row := _checked(path, reader.line_num, form.row, fields):
            yield row


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
        if row := _checked(path, number, _mooncake_row, fields):
            yield row


def _checked(
    path: Path,
    number: int,
    read: Callable[[Mapping[str, Any]], Row | None],
    fields: Mapping[str, Any],
) -> Row | None:
    try:
        return read(fields)
    except _Wrong as wrong:
        raise ValueError(f"{path}, line {number}: {wrong}; mend or drop the line") from None


class _Wrong(Exception):
    """What is wrong with one field."""


def _mooncake_row(fields: Mapping[str, Any]) -> Row | None:
    if fields.get("output_length") == 0:
        return None
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


def _timestamp_s(fields: Mapping[str, Any], name: str) -> float:
    value = fields[name]
    try:
        moment = datetime.fromisoformat(value)
    except (TypeError, ValueError):
        raise _Wrong(f"{name} is {value!r}: it must look like 2023-11-16 18:15:46.68") from None
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()


def _hashes(values: Iterable[Any]) -> tuple[int, ...]:
    try:
        return tuple(int(value) for value in values)
    except (TypeError, ValueError):
        raise _Wrong("hash_ids must be whole numbers") from None


_FORMS = (  # the most telling columns first
    _Form("input_tokens", "output_tokens", "timestamp", _seconds),
    _Form(
        "input_tokens", "output_tokens", "arrival_s", _seconds, has_clock=False, skips_empty=False
    ),
    _Form("ContextTokens", "GeneratedTokens", "TIMESTAMP", _timestamp_s),
    _Form("Request tokens", "Response tokens", "Timestamp", _seconds),
    _Form("num_prefill_tokens", "num_decode_tokens", "arrived_at", _seconds, has_clock=False),
    _Form("prompt_size", "token_size", "arrival_timestamp", _seconds),
)
