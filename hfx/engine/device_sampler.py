"""Chooses tokens on the device where it can, so that only their ids travel; else on the host.

R rows of logits, V vocabulary. A row is drawn on the device unless its logits are to be adjusted
or reported. Whatever else is in the step, the same draw of the same row gives the same token; the
device's random choices are not the host's.
"""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import blake2b

import numpy as np
import torch

from hfx.kernels import Draws, Operators

from .accelerator import Accelerator
from .batch import Sampled
from .draw import Draw
from .sampler import NO_NUMBER, sample

ALIGNED = 4  # numbers a 16-byte boundary
FLOATS = ("temperature", "top_p", "min_p")
NUMBERS = 7  # 32-bit ones a row: those, top_k, step, and a seed of two


class DeviceSampler:
    """A sampler for up to so many rows; `operators` choose, where they can."""

    def __init__(self, operators: Operators, rows: int, accelerator: Accelerator) -> None:
        self._operators = operators
        shape = (NUMBERS, -(-rows // ALIGNED) * ALIGNED)
        self._host = torch.zeros(shape, dtype=torch.int32, pin_memory=accelerator.pins)
        self._device = torch.zeros(shape, dtype=torch.int32, device=accelerator.device)

    def choose(
        self, logits_RV: torch.Tensor, places: Sequence[int], draws: Sequence[Draw]
    ) -> list[Sampled]:
        """A token for each draw, whose logits are at the row in `places`."""
        if not draws:
            return []
        here = [i for i, draw in enumerate(draws) if not self._takes(draw)]
        there = [i for i, draw in enumerate(draws) if self._takes(draw)]
        found: dict[int, Sampled] = {}
        if there:
            ids_R = self._ids(logits_RV, [(places[i], draws[i]) for i in there])
            found |= {i: _sampled(ids_R[places[i]]) for i in there}
        if here:
            rows = torch.tensor([places[i] for i in here], device=logits_RV.device)
            logits = logits_RV[rows].cpu().numpy()
            found |= dict(zip(here, sample(logits, [draws[i] for i in here]), strict=True))
        return [found[i] for i in range(len(draws))]

    def _takes(self, draw: Draw) -> bool:
        plain = not draw.adjusts and draw.sampling.logprobs is None
        return self._operators.samples and plain

    def _ids(self, logits_RV: torch.Tensor, wanted: Sequence[tuple[int, Draw]]) -> list[int]:
        """The ids of all rows; of those that nobody wants, the best token's."""
        numbers = self._host.numpy()
        numbers[:] = 0
        floats, seeds = numbers[:3].view(np.float32), numbers[5:].reshape(-1).view(np.int64)
        for row, draw in wanted:
            sampling = draw.sampling
            floats[:, row] = [getattr(sampling, name) for name in FLOATS]
            if sampling.is_greedy:
                floats[0, row] = 0.0
            numbers[3:5, row] = min(sampling.top_k, logits_RV.shape[1]), draw.index
            seeds[row] = seed_of(draw.seed)
        self._device.copy_(self._host, non_blocking=True)
        rows = len(logits_RV)
        on_device = self._device
        ids_R = self._operators.sample(
            logits_RV,
            Draws(
                temperature_R=on_device[0].view(torch.float32)[:rows],
                top_p_R=on_device[1].view(torch.float32)[:rows],
                min_p_R=on_device[2].view(torch.float32)[:rows],
                top_k_R=on_device[3, :rows],
                step_R=on_device[4, :rows],
                seed_R=on_device[5:].view(-1).view(torch.int64)[:rows],
            ),
        )
        ids: list[int] = ids_R.tolist()
        return ids


def seed_of(seed: str) -> int:
    """A number for the device's random choices, int64."""
    digest = blake2b(seed.encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little", signed=True)


def _sampled(token_id: int) -> Sampled:
    return Sampled(token_id) if token_id >= 0 else Sampled(-1, error=NO_NUMBER)
