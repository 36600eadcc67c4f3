"""A step's work list on the device: which specialisation runs it, and the lists it reads.

R reductions' tokens, S sequences, C pages in a table row, T new tokens.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from ..batch import AttentionSpec, Int32Array, RaggedBatch
from ..plan import LARGE, Tiling, WorkList
from .configs import Kind, Launch
from .room import ALIGNED, GpuRoom


@dataclass(frozen=True, slots=True, eq=False)
class GpuWork(WorkList):
    """A work list and its twin on the device, large items first.

    `counts` holds the number of large items, small items and lines of `lines` [R, 4], one per
    token of a split tile: row of the result, token within the tile, first slot, slots. `partial`
    and `stats` are where split tiles leave their sums, maxima and masses. `reduces` says whether to
    launch what puts them together.
    """

    launch: Launch
    programs: int
    counts: torch.Tensor
    device_items: torch.Tensor
    lines: torch.Tensor
    table_SC: torch.Tensor
    positions_T: torch.Tensor
    slots_T: torch.Tensor
    partial: torch.Tensor
    stats: torch.Tensor
    reduces: bool

    @classmethod
    def planned(
        cls,
        spec: AttentionSpec,
        batch: RaggedBatch,
        launch: Launch,
        programs: int,
        device: torch.device,
        *,
        fixed: bool,
    ) -> GpuWork:
        """The step's tiles as that launch wants them, with everything it reads on the device."""
        work = WorkList.tiled(spec, batch, tiling_of(launch, programs, fixed=fixed))
        lists = _lists(work)
        counts, items, lines, table, positions, slots = _upload(list(lists.values()), device)
        sums = (work.slots * spec.kv_heads, launch.partial_rows)
        return cls(
            spec,
            batch,
            work.items,
            work.reductions,
            work.slots,
            work.tile_rows,
            launch,
            programs,
            counts,
            items,
            lines,
            table,
            positions,
            slots.view(torch.int64)[:, 0],
            torch.empty(*sums, spec.head_size, device=device),
            torch.empty(*sums, 2, device=device),
            work.slots > 0,
        )

    @classmethod
    def planned_in(cls, room: GpuRoom, batch: RaggedBatch) -> GpuWork:
        """The step's tiles in a room: the same addresses, launch and grid for every batch."""
        tiling = tiling_of(room.launch, room.programs, fixed=False)
        work = WorkList.tiled(room.spec, batch, tiling)
        assert room.capacity.holds(work), f"{work.slots} slots in {room.capacity}"
        room.send(_lists(work))
        on_device = room.on_device
        return cls(
            room.spec,
            batch,
            work.items,
            work.reductions,
            work.slots,
            work.tile_rows,
            room.launch,
            room.programs,
            on_device["counts"],
            on_device["items"],
            on_device["lines"],
            on_device["table"],
            on_device["positions"][: batch.rows],
            on_device["slots"].view(torch.int64)[: batch.rows, 0],
            room.partial,
            room.stats,
            room.capacity.slots > 0,
        )


def tiling_of(launch: Launch, programs: int, *, fixed: bool) -> Tiling:
    """How a launch wants a step cut."""
    return Tiling(
        small_rows=launch.small_rows,
        large_rows=launch.large_rows,
        programs=programs,
        split_tokens=launch.split_tokens,
        fixed=fixed,
    )


def kind_of(spec: AttentionSpec, batch: RaggedBatch, small_rows: int) -> Kind:
    """Which of the three specialisations a batch needs."""
    rows_S = batch.query_lens_S * spec.group
    has_large = bool((rows_S > small_rows).any())
    has_small = bool(((rows_S > 0) & (rows_S <= small_rows)).any())
    if has_large:
        return "mixed" if has_small else "prompt"
    return "decode"


def _lists(work: WorkList) -> dict[str, Int32Array]:
    """What the kernels read, by name, in the order of a room."""
    batch = work.batch
    is_small_W = (work.items[:, 7] & LARGE) == 0
    small = int(is_small_W.sum())
    lines = _lines(work.reductions)
    return {
        "counts": np.array([len(work.items) - small, small, len(lines), 0], np.int32),
        "items": work.items[np.argsort(is_small_W, kind="stable")],
        "lines": lines,
        "table": batch.table_SC,
        "positions": batch.positions_T,
        "slots": batch.slots_T.view(np.int32).reshape(-1, 2),
    }


def _lines(reductions: Int32Array) -> Int32Array:
    """One line per token of every reduction."""
    queries_W = reductions[:, 1]
    lines = np.repeat(reductions, queries_W, axis=0)
    token_R = np.arange(len(lines)) - np.repeat(np.cumsum(queries_W) - queries_W, queries_W)
    lines[:, 0] += token_R
    lines[:, 1] = token_R
    return lines


def _upload(arrays: list[Int32Array], device: torch.device) -> list[torch.Tensor]:
    """Those arrays on the device by one copy, each on an aligned address."""
    sizes = [-(-array.size // ALIGNED) * ALIGNED for array in arrays]
    host = torch.empty(sum(sizes), dtype=torch.int32, pin_memory=device.type == "cuda")
    for piece, array in zip(torch.split(host, sizes), arrays, strict=True):
        piece.numpy()[: array.size] = array.ravel()
    pieces = torch.split(host.to(device, non_blocking=True), sizes)
    return [
        piece[: array.size].view(array.shape) for piece, array in zip(pieces, arrays, strict=True)
    ]
