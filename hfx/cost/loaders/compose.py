"""Steps put together from parts: matrix products by rows, attention of a mix, and the head."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from hfx.request import Mix

Step = tuple[Mix, float]


@dataclass(frozen=True, slots=True)
class Curve:
    """A time measured at some numbers of rows, linear between them. Seconds."""

    rows: tuple[float, ...]
    seconds: tuple[float, ...]

    @classmethod
    def of(cls, points: Iterable[tuple[float, float]]) -> Curve:
        """From (rows, seconds) in any order; repeats count by their median."""
        groups: dict[float, list[float]] = {}
        for rows, seconds in points:
            groups.setdefault(rows, []).append(seconds)
        ordered = sorted(groups)
        return cls(tuple(ordered), tuple(float(np.median(groups[row])) for row in ordered))

    def at(self, rows: float) -> float:
        """The time at that many rows; nothing is assumed beyond the measured range.

        Raises:
            ValueError: more rows than were measured.
        """
        if rows > self.rows[-1]:
            raise ValueError(f"{rows} rows lie beyond the {self.rows[-1]} that were measured")
        return float(np.interp(rows, self.rows, self.seconds))


@dataclass(frozen=True, slots=True)
class Attention:
    """Measured attention of one layer: the (query, cached) pairs of a batch, and seconds."""

    pairs: tuple[tuple[int, int], ...]
    seconds: float


def steps(
    attention: Sequence[Attention], layers: int, dense: Curve, head: Curve | None = None
) -> list[Step]:
    """A step for each attention whose rows and sequences lie within the curves.

    `dense` is everything of a step that depends on its rows alone, all layers together; `head`
    what depends on its sequences.
    """
    found = []
    for part in attention:
        rows = sum(query for query, _ in part.pairs)
        sequences = len(part.pairs)
        if rows > dense.rows[-1] or (head and sequences > head.rows[-1]):
            continue
        seconds = dense.at(rows) + layers * part.seconds
        seconds += head.at(sequences) if head else 0.0
        found.append((Mix.of(part.pairs), seconds))
    return found


def together(
    decodes: Sequence[Attention], chunks: Sequence[Attention], count: int, seed: int = 0
) -> list[Attention]:
    """Mixed batches of one launch after the other: random decodes beside random chunks."""
    random = np.random.default_rng(seed)
    picks = zip(
        random.integers(len(decodes), size=count),
        random.integers(len(chunks), size=count),
        strict=True,
    )
    return [
        Attention((*decodes[a].pairs, *chunks[b].pairs), decodes[a].seconds + chunks[b].seconds)
        for a, b in picks
    ]
