"""How each row's next token is to be chosen on a device. R rows."""

from __future__ import annotations

from dataclasses import dataclass

import torch

NO_TOKEN = -1  # of a row whose logits hold NaN or no finite maximum


@dataclass(frozen=True, slots=True, eq=False)
class Draws:
    """What each row asks for, on the device.

    `temperature_R`, `top_p_R`, `min_p_R` float32, `top_k_R` int32: 0 chooses the best token, 1, 0
    and 0 cut nothing. `seed_R` and `step_R`, int64 and int32, number the random choices.
    """

    temperature_R: torch.Tensor
    top_k_R: torch.Tensor
    top_p_R: torch.Tensor
    min_p_R: torch.Tensor
    seed_R: torch.Tensor
    step_R: torch.Tensor
