"""Rotary position tables: the angle of every position and dimension pair, scaled as a model says.

Formulas are those of the RoPE papers as Hugging Face's `rope_type` names them: Llama 3.1's report
("llama3"), Peng et al. 2309.00071 ("yarn"), position interpolation ("linear") and NTK-aware bases
("dynamic"). P positions, R rotary dimensions of a head.
"""

from __future__ import annotations

import math

import torch

from .rope_scaling import RopeScaling


def rope_table(
    rotary: int, base: float, max_positions: int, scaling: RopeScaling | None = None
) -> torch.Tensor:
    """Cosines and sines of every position: float32 [P, R], cosines in the first R / 2 columns.

    "yarn" multiplies both by its attention factor. "dynamic" is static here: it's stretched for
    `max_positions` at once, and not at all where they fit the trained context.

    Raises:
        ValueError: `rotary` is not a positive even number, or there are no positions.
    """
    if rotary < 2 or rotary % 2:
        raise ValueError(f"rotary is {rotary}: it must be even and at least 2")
    if max_positions < 1:
        raise ValueError(f"max_positions is {max_positions}: it must be at least 1")
    # float32 throughout: models were trained with the rounding that it brings at far positions
    frequency_F, attention_factor = _frequencies(rotary, base, max_positions, scaling)
    angle_PF = torch.outer(torch.arange(max_positions, dtype=torch.float32), frequency_F)
    return torch.cat((angle_PF.cos(), angle_PF.sin()), dim=1) * attention_factor


def _frequencies(
    rotary: int, base: float, max_positions: int, scaling: RopeScaling | None
) -> tuple[torch.Tensor, float]:
    if scaling is None or scaling.kind == "default":
        return 1.0 / _wavelengths(rotary, base), 1.0
    if scaling.kind == "linear":
        return 1.0 / _wavelengths(rotary, base) / scaling.factor, 1.0
    if scaling.kind == "dynamic":
        return 1.0 / _wavelengths(rotary, _ntk_base(rotary, base, max_positions, scaling)), 1.0
    if scaling.kind == "llama3":
        return _llama3(1.0 / _wavelengths(rotary, base), scaling), 1.0
    return _yarn(rotary, base, scaling), _yarn_attention_factor(scaling)


def _wavelengths(rotary: int, base: float) -> torch.Tensor:
    """Positions per radian of each dimension pair, [R / 2]."""
    exponent_F = torch.arange(0, rotary, 2, dtype=torch.float32) / rotary
    return torch.pow(base, exponent_F)


def _ntk_base(rotary: int, base: float, max_positions: int, scaling: RopeScaling) -> float:
    stretch = max(1.0, max_positions / scaling.original_max_positions)
    grown = scaling.factor * stretch - (scaling.factor - 1.0)
    return float(base * grown ** (rotary / (rotary - 2)))


def _llama3(frequency_F: torch.Tensor, scaling: RopeScaling) -> torch.Tensor:
    """Slow pairs are interpolated, fast ones kept, those between blended."""
    turns_F = scaling.original_max_positions * frequency_F / (2 * math.pi)
    low, high = scaling.low_freq_factor, scaling.high_freq_factor
    keep_F = ((turns_F - low) / (high - low)).clamp(0.0, 1.0)
    return frequency_F * keep_F + frequency_F / scaling.factor * (1.0 - keep_F)


def _yarn(rotary: int, base: float, scaling: RopeScaling) -> torch.Tensor:
    """Pairs that turn more than `beta_fast` times in the trained context keep their frequency,
    those that turn less than `beta_slow` times are interpolated."""
    low = _yarn_dimension(scaling.beta_fast, rotary, base, scaling)
    high = _yarn_dimension(scaling.beta_slow, rotary, base, scaling)
    if scaling.truncate:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, rotary - 1)
    if low == high:
        high += 0.001
    ramp_F = ((torch.arange(rotary // 2, dtype=torch.float32) - low) / (high - low)).clamp(0.0, 1.0)
    wavelength_F = _wavelengths(rotary, base)
    return ramp_F / (scaling.factor * wavelength_F) + (1.0 - ramp_F) / wavelength_F


def _yarn_dimension(turns: float, rotary: int, base: float, scaling: RopeScaling) -> float:
    """The (fractional) dimension pair that turns so often in the trained context."""
    trained = scaling.original_max_positions / (turns * 2 * math.pi)
    return rotary * math.log(trained) / (2 * math.log(base))


def _yarn_attention_factor(scaling: RopeScaling) -> float:
    if scaling.attention_factor is not None:
        return scaling.attention_factor
    if scaling.mscale and scaling.mscale_all_dim:
        return _mscale(scaling.factor, scaling.mscale) / _mscale(
            scaling.factor, scaling.mscale_all_dim
        )
    return _mscale(scaling.factor, 1.0)


def _mscale(factor: float, mscale: float) -> float:
    return 1.0 if factor <= 1.0 else 0.1 * mscale * math.log(factor) + 1.0
