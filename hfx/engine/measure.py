"""How long the steps of this engine really take: designed shapes through its own executor.

Before serving only: it borrows blocks of the pool, fills them with noise and gives them back
unnamed, so that no prefix is left behind. A step is forward and sampling. Times are seconds.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from hfx.cache import BlockPool, Holding
from hfx.cost import StepCost
from hfx.request import Mix, Sampling

from .batch import Executor, StepBatch
from .draw import Draw
from .measure_shapes import CORE, Bounds, Shape, designed

CORE_SHARE = 0.6  # of the budget that a first pass over the core shapes may take
FIRST_PASS_SHARE = 0.45  # of the budget for one over all others, so that all can be repeated
LEAST = 2  # shapes, one of each regime, that are measured whatever the budget
WARM_UP_SHARE = 0.2
WARM_UPS = 2  # runs of the first shapes that do not count: buffers and threads come to life
MOST_REPEATS = 8
Progress = Callable[[float, str], None]


class Measurable(Executor, Protocol):
    """An executor whose cache can be given contents."""

    def fill(self, blocks: Sequence[int]) -> None:
        """Put noise into these blocks' keys and values."""
        ...


@dataclass(slots=True)
class Measured:
    """What was measured of one shape: the seconds of each repeat, and which run it was."""

    shape: Shape
    mix: Mix
    times_s: list[float] = field(default_factory=list)
    runs: list[int] = field(default_factory=list)

    def add(self, bench: _Bench) -> None:
        """Measure it once more."""
        self.times_s.append(bench.run(self.shape))
        self.runs.append(bench.runs)

    @property
    def median_s(self) -> float:
        return float(np.median(self.times_s))


def measure(
    executor: Measurable,
    pool: BlockPool,
    bounds: Bounds,
    *,
    vocabulary: int,
    samplings: Sequence[Sampling] = (Sampling(temperature=0.0),),
    guess: StepCost,
    budget_s: float = 60.0,
    progress: Progress | None = None,
) -> list[Measured]:
    """Measure as many shapes, as often, as the budget allows, those that matter most first.

    A first pass finds out which shapes fit into the budget; later passes repeat them in another
    order each, so that a disturbance of the machine never falls on one shape alone. Rows are drawn
    by `samplings` in turn. `guess` need only tell short steps from long ones. `progress` hears
    the share of the budget that is spent.

    Raises:
        ValueError: the budget is not positive, or no shape fits the bounds.
    """
    if not budget_s > 0:
        raise ValueError(f"budget_s is {budget_s}: measuring takes time, give more than 0 seconds")
    todo = designed(bounds)
    if not todo:
        raise ValueError(f"no step fits {bounds}: give the cache at least one block of 16 tokens")
    started_s = time.perf_counter()
    holding = Holding()
    pool.grow(holding, min(max(map(bounds.blocks, todo)), pool.available))
    try:
        executor.fill(holding.blocks)
        bench = _Bench(executor, holding.blocks, bounds, vocabulary, samplings)
        watch = _Watch(started_s, budget_s, progress)
        measured = _first_pass(bench, todo, guess, watch)
        _repeat(bench, measured, watch)
        return measured
    finally:
        pool.release(holding)


@dataclass(frozen=True, slots=True)
class _Watch:
    """How much of the budget is spent."""

    started_s: float
    budget_s: float
    progress: Progress | None

    @property
    def spent(self) -> float:
        """Share of the budget, from 0."""
        return (time.perf_counter() - self.started_s) / self.budget_s

    def fits(self, seconds: float, share: float = 1.0) -> bool:
        """Whether that much more stays within a share of the budget."""
        return self.spent + seconds / self.budget_s <= share

    def tell(self, what: str) -> None:
        if self.progress is not None:
            self.progress(min(self.spent, 1.0), what)


def _first_pass(
    bench: _Bench, todo: Sequence[Shape], guess: StepCost, watch: _Watch
) -> list[Measured]:
    for shape in todo[:WARM_UPS]:
        if watch.fits(0.0, WARM_UP_SHARE):
            bench.run(shape)
    measured: list[Measured] = []
    slower = 1.0  # than the guess
    for index, shape in enumerate(todo):
        mix = Mix.of(shape)
        share = CORE_SHARE if index < CORE else FIRST_PASS_SHARE
        if index >= LEAST and not watch.fits(guess.step_s(mix).mean_s * slower, share):
            continue
        measured.append(Measured(shape, mix))
        measured[-1].add(bench)
        ratios = [each.times_s[0] / guess.step_s(each.mix).mean_s for each in measured]
        slower = float(np.median(ratios))
        watch.tell(described(shape))
    return measured


def _repeat(bench: _Bench, measured: Sequence[Measured], watch: _Watch) -> None:
    order = random.Random(0)
    for _ in range(MOST_REPEATS - 1):
        for each in order.sample(measured, len(measured)):
            if watch.fits(each.median_s):
                each.add(bench)
                watch.tell(described(each.shape))


class _Bench:
    """Runs shapes on an executor, with sequences laid into borrowed blocks."""

    def __init__(
        self,
        executor: Measurable,
        blocks: Sequence[int],
        bounds: Bounds,
        vocabulary: int,
        samplings: Sequence[Sampling],
    ) -> None:
        self._executor = executor
        self._blocks = np.array(blocks, dtype=np.int32)
        self._bounds = bounds
        self._vocabulary = vocabulary
        self._samplings = samplings
        self._random = np.random.default_rng(0)
        self.runs = 0

    def run(self, shape: Shape) -> float:
        """The seconds of one step of this shape."""
        self.runs += 1
        batch = self._batch(shape)
        begun_s = time.perf_counter()
        sampled = self._executor.execute(batch).sampled
        seconds = time.perf_counter() - begun_s
        assert len(sampled) == len(shape)
        return seconds

    def _batch(self, shape: Shape) -> StepBatch:
        counts = np.array([n for n, _ in shape])
        starts = np.concatenate([[0], counts.cumsum()]).astype(np.int32)
        contexts = np.array([n + h for n, h in shape], dtype=np.int32)
        return StepBatch(
            token_ids_T=self._random.integers(0, self._vocabulary, int(starts[-1])),
            query_starts=starts,
            context_lens_S=contexts,
            table_SC=self._table(contexts),
            sampled_rows_R=(starts[1:] - 1).astype(np.int64),
            draws=tuple(self._draw(row) for row in range(len(shape))),
            mix=Mix.of(shape),
        )

    def _table(self, contexts_S: NDArray[np.int32]) -> NDArray[np.int32]:
        """Every sequence in blocks of its own, one behind the other."""
        counts = -(-contexts_S // self._bounds.block_tokens)
        ends = counts.cumsum()
        columns = np.arange(counts.max())
        index_SC = (ends - counts)[:, None] + np.minimum(columns, counts[:, None] - 1)
        return self._blocks[index_SC]

    def _draw(self, row: int) -> Draw:
        sampling = self._samplings[row % len(self._samplings)]
        return Draw(sampling, f"measure+{row}", self.runs)


def in_order(measured: Sequence[Measured]) -> list[tuple[Mix, float]]:
    """Every run's mix and seconds, as they followed one another."""
    runs = (
        (run, each.mix, seconds)
        for each in measured
        for run, seconds in zip(each.runs, each.times_s, strict=True)
    )
    return [(mix, seconds) for _, mix, seconds in sorted(runs, key=lambda entry: entry[0])]


def described(shape: Shape) -> str:
    """A shape in a few words, for progress bars and tables."""
    mix = Mix.of(shape)
    words = []
    if mix.chunks:
        chunks = f"{mix.chunks} x " if mix.chunks > 1 else ""
        words.append(f"{chunks}{mix.prefill_tokens // mix.chunks} prompt tokens")
        if mix.prefill_context_tokens:
            words.append(f"behind {mix.prefill_context_tokens // mix.chunks}")
    if mix.decodes:
        words.append(f"{mix.decodes} decodes at {mix.decode_context_tokens // mix.decodes}")
    return ", ".join(words)
