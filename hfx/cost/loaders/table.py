"""Rows of a CSV file by our names for its columns, whatever the publisher called them."""

from __future__ import annotations

import csv
import gzip
from collections.abc import Iterator, Mapping
from pathlib import Path


def rows(path: Path, columns: Mapping[str, tuple[str, ...]]) -> Iterator[dict[str, str]]:
    """Every row with our names; `columns` gives the publisher's names to look for, in order.

    Raises:
        ValueError: the file lacks a column; the message says which names were looked for.
        OSError: the file can't be read.
    """
    opened = gzip.open if path.suffix == ".gz" else open
    with opened(path, "rt", newline="") as file:
        reader = csv.DictReader(file)
        present = reader.fieldnames or ()
        chosen = {}
        for ours, theirs in columns.items():
            found = next((name for name in theirs if name in present), None)
            if found is None:
                raise ValueError(
                    f"{path.name} has no column {' or '.join(theirs)}, only {', '.join(present)}: "
                    "give the publisher's table"
                )
            chosen[ours] = found
        for row in reader:
            yield {ours: row[theirs] for ours, theirs in chosen.items()}


def number(row: Mapping[str, str], name: str) -> float:
    """A cell as a number.

    Raises:
        ValueError: it is none; the message names column and cell.
    """
    try:
        return float(row[name])
    except ValueError as error:
        raise ValueError(f"{name} is {row[name]!r}, not a number: correct the table") from error
