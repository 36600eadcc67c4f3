"""What the machine could do at best in the minute that a case is timed in: the two plain probes.

A plain read of the very buffers that hold the keys and values, and a dense product of the same
type, with the same threads.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import cycle

import torch

from hfx.kernels import KVCache, _cpu

Call = Callable[[], object]
PRODUCT = {"cpu": 1024, "cuda": 8192, "npu": 8192}  # rows and columns: large enough to be near peak


@dataclass(frozen=True, slots=True)
class Probes:
    """`read` takes `read_bytes` from memory, `product` does `flops` operations."""

    read: Call
    read_bytes: int
    product: Call
    flops: float

    @classmethod
    def of(cls, caches: Sequence[KVCache], threads: int) -> Probes:
        """The probes of the device that the caches are on, which are read in turn."""
        device, dtype = caches[0].k.device, caches[0].spec.dtype
        size = PRODUCT[device.type]
        square = torch.randn(size, size, device=device).to(dtype)
        out = torch.empty_like(square)
        turn = cycle(caches)
        read_bytes = caches[0].k.nbytes + caches[0].v.nbytes

        def read() -> None:
            cache = next(turn)
            for x in (cache.k, cache.v):
                if device.type == "cpu":
                    _cpu.read_all(x.data_ptr(), x.nbytes // 256 * 256, threads)
                else:
                    x.view(torch.int32).sum()

        return cls(read, read_bytes, lambda: torch.mm(square, square, out=out), 2.0 * size**3)

    def roof_s(self, flops: float, kv_bytes: float, read_s: float, product_s: float) -> float:
        """The least time of so much work at the probes' measured speeds."""
        return max(flops * product_s / self.flops, kv_bytes * read_s / self.read_bytes)
