"""One step's attention as a list of tiles, planned once and shared by every layer of a spec.

A tile is a few consecutive tokens of one sequence against a range of its keys, for all query heads
of one key-value head; its rows are tokens times the heads of a group. W tiles, R reductions.
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass

import numpy as np

from hfx.request import Mix

from .batch import AttentionSpec, Int32Array, Int64Array, RaggedBatch

# Columns of WorkList.items and of WorkList.reductions, in order.
ITEM = ("sequence", "query_row", "queries", "position", "kv_begin", "kv_end", "slot", "flags")
REDUCTION = ("query_row", "queries", "first_slot", "slots")
LARGE, FIRST = 1, 2  # flags: the tile's class; whether it's the part that sinks belong to


@dataclass(frozen=True, slots=True, kw_only=True)
class Tiling:
    """How a device likes its tiles.

    A sequence whose rows fit `small_rows` becomes small tiles, any other large ones, so that a
    decode does not pay for a prompt's tile. `programs` tiles run side by side; a tile that costs
    more than its share of the step is split along its keys, in parts of at least `split_tokens`.

    With `fixed`, small tiles are split at multiples of `split_tokens` and large ones not at all,
    whatever else is in the batch, so that a sequence's result doesn't depend on its company.
    """

    small_rows: int
    large_rows: int
    programs: int
    split_tokens: int = 512
    shares: int = 4  # parts of the step's cost a program; more balance better and reduce more
    fixed: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Capacity:
    """The most that a work list can hold, whatever the lengths: items, reductions, partial slots.

    A launch that is captured once and replayed reads its lists at fixed addresses with this much
    room behind them.
    """

    items: int
    reductions: int
    slots: int

    @classmethod
    def of(
        cls,
        spec: AttentionSpec,
        tiling: Tiling,
        *,
        sequences: int,
        tokens: int,
        context_tokens: int,
    ) -> Capacity:
        """Enough for every step of up to so many sequences and new tokens, contexts that long.

        A sequence of n tokens has 1 + (n - 1) // t tiles of t tokens. A tile of cost c is split
        into at most 1 + (c - 1) // share parts, and the costs of a step add up to less than twice
        its programs' shares: rounding down to the share can halve it, and no more.
        """
        some = min(sequences, tokens)
        tiles = some + (tokens - some) // max(1, tiling.large_rows // spec.group)
        if tiling.fixed:
            parts = max(1, -(-context_tokens // tiling.split_tokens))
            slots = some * parts if parts > 1 else 0
            return cls(items=tiles + some * (parts - 1), reductions=slots // 2, slots=slots)
        parts = max(1, context_tokens // tiling.split_tokens)
        shares = 2 * tiling.programs * tiling.shares // spec.kv_heads
        items = min(tiles + shares, tiles * parts)
        slots = min(2 * shares + 1, items) if parts > 1 else 0
        return cls(items=items, reductions=min(tiles, slots // 2), slots=slots)

    def holds(self, work: WorkList) -> bool:
        """Whether a list fits."""
        return (
            len(work.items) <= self.items
            and len(work.reductions) <= self.reductions
            and work.slots <= self.slots
        )


@dataclass(frozen=True, slots=True, eq=False)
class WorkList:
    """The tiles of one step, costliest first, each to be run for every key-value head.

    `items` [W, 8] holds: sequence; first query row; query tokens; position of the first; range of
    keys, beginning on a page; partial slot or -1 where the tile writes its result; its flags,
    LARGE and FIRST. The parts of a split tile have consecutive slots, `slots` in all, and a row in
    `reductions` [R, 4]: first query row; query tokens; first slot; number of slots. `tile_rows` is
    the most rows that a tile has.

    A back end that works sequence by sequence reads `spec` and `batch` only and leaves the lists
    empty.
    """

    spec: AttentionSpec
    batch: RaggedBatch
    items: Int32Array
    reductions: Int32Array
    slots: int
    tile_rows: int

    @classmethod
    def untiled(cls, spec: AttentionSpec, batch: RaggedBatch) -> WorkList:
        """The list of a back end that needs no tiles."""
        return cls(spec, batch, np.empty((0, 8), np.int32), np.empty((0, 4), np.int32), 0, 0)

    @classmethod
    def tiled(cls, spec: AttentionSpec, batch: RaggedBatch, tiling: Tiling) -> WorkList:
        """Tiles that together cover every visible (query row, key) pair exactly once.

        Raises:
            ValueError: a fixed split isn't a multiple of the page.
        """
        if tiling.fixed and (tiling.split_tokens < 1 or tiling.split_tokens % spec.page_tokens):
            raise ValueError(
                f"split_tokens is {tiling.split_tokens}: a fixed split must be a multiple of the "
                f"page ({spec.page_tokens} tokens)"
            )
        tiles = _tiles(spec, batch, tiling)
        cut = _fixed_parts if tiling.fixed else _balanced_parts
        items, reductions, slots = _split(tiles, *cut(spec, tiles, tiling))
        rows_W = items[:, 2] * spec.group
        order = np.argsort(-_cost(items[:, 5] - items[:, 4], rows_W), kind="stable")
        tile_rows = int(rows_W.max(initial=0))
        return cls(spec, batch, items[order].astype(np.int32), reductions, slots, tile_rows)

    @property
    def mix(self) -> Mix:
        """The step as the sums that cost models price."""
        query_lens_S = self.batch.query_lens_S.astype(np.int64)
        history_S = self.batch.context_lens_S - query_lens_S
        decodes_S = (query_lens_S == 1) & (history_S > 0)
        chunks_S = (query_lens_S > 0) & ~decodes_S
        contexts = history_S[decodes_S] + 1
        new, cached = query_lens_S[chunks_S], history_S[chunks_S]
        return Mix(
            decodes=len(contexts),
            decode_context_tokens=int(contexts.sum()),
            chunks=len(new),
            prefill_tokens=int(new.sum()),
            prefill_context_tokens=int(cached.sum()),
            attention_pairs=float((new * (2 * cached + new)).sum()) / 2,
            decode_context_squares=int((contexts * contexts).sum()),
        )

    @property
    def visible_pairs(self) -> int:
        """(query token, key) pairs that count, for one head."""
        seen_T = self.batch.positions_T[: self.batch.tokens].astype(np.int64) + 1
        return int((np.minimum(seen_T, self.spec.window) if self.spec.window else seen_T).sum())

    @property
    def computed_pairs(self) -> int:
        """(query token, key) pairs that the tiles multiply, hidden ones included."""
        queries_W = self.items[:, 2].astype(np.int64)
        return int((queries_W * (self.items[:, 5] - self.items[:, 4])).sum())

    def makespan(self, programs: int) -> tuple[float, float]:
        """(cost of the busiest of so many programs, least cost that any schedule could reach).

        Programs take the tiles in order, each when it is free.
        """
        items = self.items.astype(np.int64)
        cost_W = _cost(items[:, 5] - items[:, 4], items[:, 2] * self.spec.group)
        cost_I = np.repeat(cost_W, self.spec.kv_heads)  # costliest first
        busy = [0] * programs
        for cost in cost_I.tolist():
            heapq.heapreplace(busy, busy[0] + cost)
        # of the k programs + 1 costliest tiles, some program has k + 1: at least the cheapest ones
        sums = np.concatenate(([0], np.cumsum(cost_I)))
        k = np.arange(-(-len(cost_I) // programs))
        crowded = sums[k * programs + 1] - sums[k * (programs - 1)]
        return float(max(busy)), float(max(sums[-1] / programs, crowded.max(initial=0)))


def _tiles(spec: AttentionSpec, batch: RaggedBatch, tiling: Tiling) -> Int64Array:
    """Unsplit items: tokens cut by class, keys clipped by causality and window."""
    query_lens_S = batch.query_lens_S
    large_S = query_lens_S * spec.group > tiling.small_rows
    tokens_S = np.where(
        large_S,
        max(1, tiling.large_rows // spec.group),
        max(1, tiling.small_rows // spec.group),
    )
    tiles_S = -(-query_lens_S // tokens_S)
    sequence_W = np.repeat(np.arange(len(tiles_S)), tiles_S)
    tokens_W = tokens_S[sequence_W]
    first_W = (np.arange(len(sequence_W)) - (np.cumsum(tiles_S) - tiles_S)[sequence_W]) * tokens_W
    queries_W = np.minimum(tokens_W, query_lens_S[sequence_W] - first_W)
    position_W = (batch.context_lens_S - query_lens_S)[sequence_W] + first_W
    items = np.empty((len(sequence_W), len(ITEM)), np.int64)
    items[:, 0] = sequence_W
    items[:, 1] = batch.query_starts[sequence_W] + first_W
    items[:, 2] = queries_W
    items[:, 3] = position_W
    items[:, 4] = _kv_begin(spec, position_W)
    items[:, 5] = position_W + queries_W
    items[:, 6] = -1
    items[:, 7] = np.where(large_S, FIRST | LARGE, FIRST)[sequence_W]
    return items


def _kv_begin(spec: AttentionSpec, position_W: Int64Array) -> Int64Array:
    """The page that the window of a tile's first token begins in."""
    first_W = np.maximum(position_W - (spec.window - 1), 0) if spec.window else 0 * position_W
    return first_W - first_W % spec.page_tokens


def _cost(keys_W: Int64Array, rows_W: Int64Array) -> Int64Array:
    """Relative cost of tiles: the products of their rows, and reading the keys (as 4 rows more)."""
    return keys_W * (rows_W + 4) + 64 * rows_W


def _balanced_parts(
    spec: AttentionSpec, tiles: Int64Array, tiling: Tiling
) -> tuple[Int64Array, Int64Array, Int64Array]:
    """(key that counting starts from, keys of a part, number of parts) of each tile, by cost."""
    begin_W = tiles[:, 4]
    keys_W = tiles[:, 5] - begin_W
    cost_W = _cost(keys_W, tiles[:, 2] * spec.group)
    share = max(1, int(cost_W.sum()) * spec.kv_heads // (tiling.programs * tiling.shares))
    most_W = np.maximum(1, keys_W // tiling.split_tokens)
    parts_W = np.minimum(most_W, -(-cost_W // share))
    step_W = -(-keys_W // (parts_W * spec.page_tokens)) * spec.page_tokens
    return begin_W, step_W, -(-keys_W // step_W)


def _fixed_parts(
    spec: AttentionSpec, tiles: Int64Array, tiling: Tiling
) -> tuple[Int64Array, Int64Array, Int64Array]:
    """The same, by the tile alone."""
    split = tiling.split_tokens
    is_large_W = (tiles[:, 7] & LARGE) != 0
    start_W = tiles[:, 4] // split * split
    step_W = np.where(is_large_W, np.maximum(1, tiles[:, 5]), split)
    return start_W, step_W, np.where(is_large_W, 1, -(-(tiles[:, 5] - start_W) // split))


def _split(
    tiles: Int64Array, start_W: Int64Array, step_W: Int64Array, parts_W: Int64Array
) -> tuple[Int64Array, Int32Array, int]:
    """Items, reductions and the number of slots, once tiles are split into those parts."""
    if parts_W.max(initial=1) == 1:
        return tiles, np.empty((0, len(REDUCTION)), np.int32), 0
    tile_I = np.repeat(np.arange(len(tiles)), parts_W)
    part_I = np.arange(len(tile_I)) - (np.cumsum(parts_W) - parts_W)[tile_I]
    items = tiles[tile_I]
    begin_I = start_W[tile_I] + part_I * step_W[tile_I]
    items[:, 4] = np.maximum(items[:, 4], begin_I)
    items[:, 5] = np.minimum(items[:, 5], begin_I + step_W[tile_I])
    items[part_I > 0, 7] &= ~FIRST
    is_split_W = parts_W > 1
    slots_W = np.where(is_split_W, parts_W, 0)
    first_slot_W = np.cumsum(slots_W) - slots_W
    items[:, 6] = np.where(is_split_W[tile_I], first_slot_W[tile_I] + part_I, -1)
    reductions = np.empty((int(is_split_W.sum()), len(REDUCTION)), np.int32)
    reductions[:, :2] = tiles[is_split_W, 1:3]
    reductions[:, 2] = first_slot_W[is_split_W]
    reductions[:, 3] = parts_W[is_split_W]
    return items, reductions, int(slots_W.sum())
