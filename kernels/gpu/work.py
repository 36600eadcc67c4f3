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

ALIGNED = 4  # int32 a 16-byte boundary: what vector loads want of an address


@dataclass(frozen=True, slots=True, eq=False)
class GpuWork(WorkList):
    """A work list and its twin on the device, large items first.

    `counts` holds the number of large items, small items and lines of `lines` [R, 4], one per
    token of a split tile: row of the result, token within the tile, first slot, slots. `partial`
    and `stats` are where split tiles leave their sums, maxima and masses.
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
        tiling = Tiling(
            small_rows=launch.small_rows,
            large_rows=launch.large_rows,
            programs=programs,
            split_tokens=launch.split_tokens,
            fixed=fixed,
        )
        work = WorkList.tiled(spec, batch, tiling)
        is_small_W = (work.items[:, 7] & LARGE) == 0
        items = work.items[np.argsort(is_small_W, kind="stable")]
        lines = _lines(work.reductions)
        small = int(is_small_W.sum())
        counts = np.array([len(items) - small, small, len(lines), 0], np.int32)
        slots_T = batch.slots_T.view(np.int32)
        host = [counts, items, lines, batch.table_SC, batch.positions_T, slots_T]
        on_device = _upload(host, device)
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
            on_device[0],
            on_device[1],
            on_device[2],
            on_device[3],
            on_device[4],
            on_device[5].view(torch.int64),
            torch.empty(*sums, spec.head_size, device=device),
            torch.empty(*sums, 2, device=device),
        )


def kind_of(spec: AttentionSpec, batch: RaggedBatch, small_rows: int) -> Kind:
    """Which of the three specialisations a batch needs."""
    rows_S = batch.query_lens_S * spec.group
    has_large = bool((rows_S > small_rows).any())
    has_small = bool(((rows_S > 0) & (rows_S <= small_rows)).any())
    if has_large:
        return "mixed" if has_small else "prompt"
    return "decode"


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
