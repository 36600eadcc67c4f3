"""A step's lists at fixed addresses: what a captured launch reads, filled anew before each replay.

S sequences of one new token each, C pages in a table row, W items, R lines, H head size.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from ..batch import AttentionSpec, Int32Array
from ..operators import Room
from ..plan import Capacity
from .configs import Launch

ALIGNED = 4  # int32 a 16-byte boundary: what vector loads want of an address
COLUMNS_STEP = 16  # the table's stride is a multiple, which kernels are compiled for


@dataclass(frozen=True, slots=True, eq=False)
class GpuRoom(Room):
    """One buffer on the device, its pinned twin on the host, and views into both.

    In order: `counts` [4], `items` [W, 8], `lines` [R, 4], `positions` [S], `slots` [S, 2] (halves
    of an int64) and last the table [S, C], of which only the rows in use travel.
    """

    spec: AttentionSpec
    launch: Launch
    programs: int
    capacity: Capacity
    host: torch.Tensor
    device: torch.Tensor
    on_host: dict[str, Int32Array]
    on_device: dict[str, torch.Tensor]
    partial: torch.Tensor
    stats: torch.Tensor

    @classmethod
    def of(
        cls,
        spec: AttentionSpec,
        launch: Launch,
        programs: int,
        capacity: Capacity,
        device: torch.device,
        *,
        sequences: int,
        context_tokens: int,
    ) -> GpuRoom:
        """Room for every step of up to so many sequences with contexts that long."""
        pages = -(-context_tokens // spec.page_tokens)
        columns = -(-pages // COLUMNS_STEP) * COLUMNS_STEP
        shapes = {
            "counts": (4,),
            "items": (capacity.items, 8),
            "lines": (sequences, 4),
            "positions": (sequences,),
            "slots": (sequences, 2),
            "table": (sequences, columns),
        }
        sizes = [_aligned(int(np.prod(shape))) for shape in shapes.values()]
        host = torch.zeros(sum(sizes), dtype=torch.int32, pin_memory=device.type == "cuda")
        twin = torch.zeros(sum(sizes), dtype=torch.int32, device=device)
        sums = (max(1, capacity.slots) * spec.kv_heads, launch.partial_rows)
        return cls(
            spec,
            launch,
            programs,
            capacity,
            host,
            twin,
            {name: x.numpy() for name, x in _views(host, shapes, sizes).items()},
            _views(twin, shapes, sizes),
            torch.empty(*sums, spec.head_size, device=device),
            torch.empty(*sums, 2, device=device),
        )

    def send(self, lists: dict[str, Int32Array]) -> None:
        """Put a step's lists in place, behind whatever the device is still doing.

        The caller must not send again before the device has read them.
        """
        for name, values in lists.items():
            place = self.on_host[name]
            assert len(values) <= len(place), f"{len(values)} {name}, room for {len(place)}"
            columns = values.shape[1] if values.ndim == 2 else None
            place[: len(values), ...][..., :columns] = values
        table = self.on_host["table"]
        used = len(self.host) - (len(table) - len(lists["table"])) * table.shape[1]
        self.device[:used].copy_(self.host[:used], non_blocking=True)


def _aligned(size: int) -> int:
    return -(-size // ALIGNED) * ALIGNED


def _views(
    buffer: torch.Tensor, shapes: dict[str, tuple[int, ...]], sizes: list[int]
) -> dict[str, torch.Tensor]:
    return {
        name: piece[: int(np.prod(shape))].view(shape)
        for (name, shape), piece in zip(shapes.items(), torch.split(buffer, sizes), strict=True)
    }
