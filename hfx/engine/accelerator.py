"""The device as the engine sees it: its memory, its clockwork, whether it records steps. Bytes.

torch.cuda and torch.npu are made alike; the CPU stands in where Triton's interpreter runs.
"""

from __future__ import annotations

import gc
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from hfx.models import available_bytes

from .record import DeviceGraphs, EagerReplays, Recorder


@dataclass(frozen=True, slots=True)
class Accelerator:
    """A torch device and, unless it's the CPU, the torch module that speaks for it."""

    device: torch.device
    module: Any = None

    @classmethod
    def at(cls, device: torch.device) -> Accelerator:
        """What there is at that device."""
        return cls(device, None if device.type == "cpu" else getattr(torch, device.type))

    @property
    def pins(self) -> bool:
        """Whether copies to it are faster from pinned memory."""
        return self.module is not None

    @property
    def name(self) -> str:
        """What its maker calls it."""
        return "cpu" if self.module is None else str(self.module.get_device_name(self.device))

    def memory(self) -> tuple[int, int]:
        """(free, all) bytes, what other processes took counting as taken.

        Raises:
            ValueError: the system doesn't say.
        """
        if self.module is not None:
            free, total = self.module.mem_get_info(self.device)
            return int(free), int(total)
        free = available_bytes()
        if free is None:
            raise ValueError(
                "this system doesn't say how much memory is available: set kv_cache_memory_bytes"
            )
        return free, free

    def synchronize(self) -> None:
        """Wait until it has done everything that it was asked for."""
        if self.module is not None:
            self.module.synchronize(self.device)

    def peak_bytes(self, run: Callable[[], None]) -> int:
        """Most memory that `run` holds at once, freed afterwards; 0 where nobody counts.

        What torch's allocator holds counts, not what is in use: a recording keeps its memory from
        everyone else, in use or not.
        """
        if self.module is None:
            run()
            return 0
        self.synchronize()
        self.module.empty_cache()
        self.module.reset_peak_memory_stats(self.device)
        before = int(self.module.memory_reserved(self.device))
        run()
        self.synchronize()
        peak = int(self.module.max_memory_reserved(self.device)) - before
        gc.collect()
        self.module.empty_cache()
        return peak

    def recorder(self) -> Recorder | None:
        """What records steps there; None where nothing does."""
        if self.module is None:
            return EagerReplays()
        graph = getattr(self.module, "CUDAGraph", None) or getattr(self.module, "NPUGraph", None)
        return None if graph is None else DeviceGraphs(self.module, graph)
