"""The frame of every benchmark: its common options, its closing words, its JSON."""

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path

from hfx.bench.record import Record


def parser(description: str) -> argparse.ArgumentParser:
    """A command line with the options that every benchmark has."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write machine, rows and summary")
    parser.add_argument("--quick", action="store_true", help="fewer repeats: a look, not a figure")
    return parser


def print_rows(rows: Sequence[Mapping[str, object]]) -> None:
    """Rows with the same keys as an aligned table."""
    if not rows:
        return
    names = list(rows[0])
    cells = [names, *([_cell(row[name]) for name in names] for row in rows)]
    widths = [max(len(line[i]) for line in cells) for i in range(len(names))]
    for line in cells:
        print("  ".join(f"{cell:>{width}}" for cell, width in zip(line, widths, strict=True)))


def finish(record: Record, options: argparse.Namespace) -> None:
    """Print the machine's load and the summary; write the JSON where one was asked for."""
    before = record.machine["load_average_before"][0]
    print(f"\n{record.machine['cpu']}, {record.machine['cores']} cores, load before {before:.2f}")
    for name, value in record.summary.items():
        print(f"{name:<32}{value:>12.2f}")
    if options.json:
        record.write(options.json)


def _cell(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.3g}" if abs(value) < 100 else f"{value:.0f}"
    return "-" if value is None else str(value)
