"""Which steps are worth measuring: a grid over each regime, then points that fill the space.

A shape is a step's (query tokens, cached tokens) pairs, one a sequence. All sizes are tokens.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice

Shape = tuple[tuple[int, int], ...]

CORE = 18  # shapes that a fit can do with
FILLING = 48  # points beyond the grid: mixes as they come when requests arrive at random
DECODE_BATCHES = (1, 4, 16, 2, 8, 32, 64, 128, 256)
DECODE_CONTEXTS = (64, 1024, 256, 4096)
CHUNKS = (16, 128, 512, 64, 256, 32, 384, 192, 96, 1024, 2048, 4096, 8)
HISTORIES = (0, 1024, 4096)
MIXED = ((64, 4), (256, 4), (128, 16), (448, 16), (32, 16), (128, 1))  # chunk, decodes


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """What the steps of an engine can be at most; `kv_tokens` bounds all contexts together."""

    max_seqs: int
    max_step_tokens: int
    max_model_len: int
    kv_tokens: int
    block_tokens: int

    def allow(self, shape: Shape) -> bool:
        """Whether the engine could run this step."""
        tokens = sum(n for n, _ in shape)
        return (
            0 < len(shape) <= self.max_seqs
            and tokens <= self.max_step_tokens
            and max(n + h for n, h in shape) <= self.max_model_len
            and self.blocks(shape) * self.block_tokens <= self.kv_tokens
        )

    def blocks(self, shape: Shape) -> int:
        """Blocks that the shape's sequences hold together."""
        return sum(-(-(n + h) // self.block_tokens) for n, h in shape)


def designed(bounds: Bounds) -> list[Shape]:
    """Different shapes within the bounds, those that a fit needs most first.

    The others are shuffled, so that alike ones do not follow one another.
    """
    others = [*_grid(bounds), *islice(_filling(bounds), FILLING)]
    random.Random(0).shuffle(others)
    wanted = [*_core(bounds), *others]
    return list(dict.fromkeys(shape for shape in wanted if bounds.allow(shape)))


def _core(bounds: Bounds) -> Iterable[Shape]:
    """The least that fixes every price: three batches at two contexts, chunks alone and beside."""
    top = max(1, min(bounds.max_step_tokens, bounds.max_model_len - 1))
    long = max(2, min(1024, bounds.max_model_len - 1))
    yield from (decodes(1, 64), ((16, 0),), decodes(8, 64), ((64, 0),), decodes(4, long))
    yield from (((64, 0), *decodes(4, 256)), decodes(1, long), ((32, 0),), decodes(16, 64))
    yield from (((128, 0),), ((64, 512),), decodes(16, long), ((32, 0), *decodes(16, 256)))
    yield from (((96, 0),), ((64, 0),) * 3, ((256, 0),), ((128, 0), *decodes(8, 256)), ((top, 0),))


def _grid(bounds: Bounds) -> Iterable[Shape]:
    for context in DECODE_CONTEXTS:
        for batch in DECODE_BATCHES:
            yield decodes(batch, context)
    for batch in (4, 16, 32):  # one long context towers over the others
        yield ((1, max(1, min(2047, bounds.max_model_len - 1))), *decodes(batch - 1, 128))
    for history in HISTORIES:
        for chunk in (*CHUNKS, bounds.max_step_tokens):
            yield ((chunk, history),)
    for chunk, count in ((64, 4), (128, 3), (32, 8), (16, 4)):
        yield ((chunk, 0),) * count
    for chunk, batch in MIXED:
        yield ((chunk, 0), *decodes(batch, 256))
        yield ((chunk, 512), *decodes(batch, 1024))


def _filling(bounds: Bounds) -> Iterator[Shape]:
    """Mixed steps, and every third one of decodes alone, spread evenly over sizes' logarithms."""
    index = 0
    while index < 4 * FILLING:
        index += 1
        u = [radical_inverse(index, base) for base in (2, 3, 5, 7)]
        batch = round(min(bounds.max_seqs, 64) ** u[0])
        context = round(16 * 96 ** u[1])
        beside = tuple((1, _spread(context, i)) for i in range(batch))
        if index % 3 == 0:
            shape: Shape = beside
        else:
            room = max(1, bounds.max_step_tokens - batch)
            chunk = max(2, round(room ** (0.4 + 0.6 * u[2])))
            history = round(2048 * max(0.0, u[3] - 0.5))
            shape = (*_cut(chunk, history, 1 + index % 2), *beside)
        if bounds.allow(shape):
            yield shape


def decodes(batch: int, context: int) -> Shape:
    """`batch` sequences that hold `context` tokens once the step is done."""
    return ((1, context - 1),) * batch


def _spread(context: int, index: int) -> int:
    """Cached tokens of the sequence at `index`: from half to one and a half times `context`."""
    return max(1, round(context * (0.5 + radical_inverse(index + 1, 2))))


def _cut(chunk: int, history: int, parts: int) -> Shape:
    """A chunk in one piece, or as the end of one prompt and the start of the next."""
    if parts == 1 or chunk < 4:
        return ((chunk, history),)
    first = chunk // 3 + 1
    return ((first, history), (chunk - first, 0))


def radical_inverse(index: int, base: int) -> float:
    """Halton's sequence: the digits of `index` mirrored at the point, in [0, 1)."""
    inverse, digit = 0.0, 1.0
    while index:
        digit /= base
        index, remainder = divmod(index, base)
        inverse += remainder * digit
    return inverse
