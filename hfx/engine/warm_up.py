"""Every kind of step that serving can bring, run once at start: nothing is compiled later.

Steps are (query tokens, cached tokens) pairs, all in the spare page, whose contents don't matter.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from hfx.request import Mix, Sampling

from .batch import StepBatch
from .buckets import Buckets
from .device_executor import DeviceExecutor
from .draw import Draw

Shape = tuple[tuple[int, int], ...]

SHORT = (2, 4, 8, 16, 32, 64)  # of a step whose one long context is the larger share of it
GREEDY, DRAWN = Sampling(temperature=0.0), Sampling(top_k=2, top_p=0.9, min_p=0.01)


def warm_up(
    executor: DeviceExecutor,
    context_tokens: int,
    progress: Callable[[str, float], None] | None = None,
) -> None:
    """Run all of them and record the decode steps; `progress` hears the fraction done."""
    shapes = list(dict.fromkeys(shapes_of(executor.buckets, context_tokens)))
    sizes = executor.captured.buckets[::-1] if executor.captured is not None else ()
    for index, size in enumerate(sizes):
        _tell(progress, "recording decodes", index / len(sizes))
        executor.record(size)
    for index, shape in enumerate(shapes):
        _tell(progress, "warming up", index / len(shapes))
        executor.execute(batch_of(shape, executor.spare_page, executor.buckets.columns))
    _tell(progress, "warming up", 1.0)


def shapes_of(buckets: Buckets, context_tokens: int) -> Iterator[Shape]:
    """Prompts of each size, then steps that kernels run in other ways.

    Those tell short queries from long ones, each alone and both together, and split the keys of a
    long context that is much of a step's work.
    """
    last = context_tokens - 1
    most = buckets.sequences[-1]
    for tokens in reversed(buckets.tokens):
        yield prompts_of(tokens, context_tokens, most)
    for tokens in (*SHORT, buckets.tokens[-1]):
        if tokens <= min(buckets.tokens[-1], last):
            yield ((tokens, context_tokens - tokens),)
        if 1 < tokens <= buckets.tokens[-1] and most > 1:
            yield (*prompts_of(tokens - 1, context_tokens, most - 1), (1, last))
    for sequences in buckets.sequences:
        yield ((1, 0),) * sequences


def prompts_of(tokens: int, context_tokens: int, most: int) -> Shape:
    """So many tokens in as few prompts as the context allows, and no more than so many prompts."""
    whole, rest = divmod(tokens, context_tokens)
    lens = [context_tokens] * whole + [rest] * (rest > 0)
    return tuple((n, 0) for n in lens[:most])


def batch_of(shape: Shape, page: int, columns: int) -> StepBatch:
    """A step of those lengths, every sequence in that one page, every row sampled."""
    counts = np.array([n for n, _ in shape])
    starts = np.concatenate(([0], counts.cumsum())).astype(np.int32)
    return StepBatch(
        token_ids_T=np.zeros(int(starts[-1]), np.int64),
        query_starts=starts,
        context_lens_S=np.array([n + h for n, h in shape], np.int32),
        table_SC=np.full((len(shape), columns), page, np.int32),
        sampled_rows_R=(starts[1:] - 1).astype(np.int64),
        draws=tuple(
            Draw(DRAWN if row % 2 else GREEDY, "warm-up", row) for row in range(len(shape))
        ),
        mix=Mix.of(shape),
    )


def _tell(progress: Callable[[str, float], None] | None, phase: str, share: float) -> None:
    if progress is not None:
        progress(phase, share)
