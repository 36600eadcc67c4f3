"""Which cost model an engine starts with, by its configuration. Times are seconds."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path

from hfx.config import CostConfig
from hfx.cost import StepCost, load, named, require, save
from hfx.cost.presets import names

from .equip import Equipment
from .live_cost import LiveCost, Origin, quality
from .profiles import calibrate, key_of, measured_at, profile_path

logger = logging.getLogger(__name__)

QUICK_S = 0.6  # what a start may spend on a look at its own speed
Progress = Callable[[str, float], None]


def live_cost(
    config: CostConfig, equipment: Equipment, progress: Progress | None = None
) -> LiveCost | None:
    """The prices that a configuration asks for; None where it wants none.

    Raises:
        ValueError: the named profile is none, is damaged, or is of something else; the message
            names the field and the cure.
    """
    choice = config.cost_profile
    if choice == "off":
        return None
    if choice == "auto":
        return _saved(config, equipment) or _quick(equipment, progress)
    if choice == "calibrate":
        return _calibrated(config, equipment, progress)
    return _named(choice, equipment)


def age(model: StepCost) -> str:
    """How long ago a profile was measured."""
    when = measured_at(model)
    if when is None:
        return "of unknown age"
    minutes = (datetime.now(UTC) - when).total_seconds() / 60
    for size, unit in ((2 * 1440, "days"), (120, "hours")):
        if minutes >= size:
            return f"measured {minutes / (1440 if unit == 'days' else 60):.0f} {unit} ago"
    return f"measured {max(0.0, minutes):.0f} minutes ago"


def _saved(config: CostConfig, equipment: Equipment) -> LiveCost | None:
    """The profile that an earlier calibration left, if there is a sound one."""
    key = key_of(equipment)
    path = profile_path(config.home, key)
    try:
        model = load(path, **asdict(key))
    except FileNotFoundError:
        return None
    except (ValueError, OSError) as error:
        logger.warning("the saved cost profile is not used: %s", error)
        return None
    return LiveCost(model, Origin("saved", f"{path}, {age(model)}: {quality(model)}"))


def _quick(equipment: Equipment, progress: Progress | None) -> LiveCost:
    _tell(progress, "measuring steps", 0.0)
    model = calibrate(equipment, QUICK_S).model
    text = (
        f"a quick look of {QUICK_S} s, corrected while serving (python -m hfx.calibrate makes a "
        f"better one): {quality(model)}"
    )
    return LiveCost(model, Origin("quick", text))


def _calibrated(config: CostConfig, equipment: Equipment, progress: Progress | None) -> LiveCost:
    model = calibrate(
        equipment,
        config.calibration_s,
        progress=lambda share, _: _tell(progress, "measuring steps", share),
    ).model
    path = profile_path(config.home, key_of(equipment))
    kept = str(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        save(model, path)
    except OSError as error:
        kept = f"not saved ({error.strerror}: {path})"
    return LiveCost(model, Origin("calibrated", f"calibrated now, {kept}: {quality(model)}"))


def _named(name: str, equipment: Equipment) -> LiveCost:
    """A preset may be of something else; a file must be of what runs here."""
    try:
        model, key = named(name), key_of(equipment)
    except ValueError as error:
        if isinstance(error.__cause__, OSError):
            raise ValueError(f"{error}; or auto, calibrate, or off") from error
        raise
    if name in names():
        text = (
            f"preset {name} of {model.key.model} on {model.key.device}, while {key.model} runs on "
            f"{key.device}: {quality(model)}"
        )
        return LiveCost(model, Origin("preset", text))
    path = Path(name).expanduser()
    try:
        require(model, **asdict(key))
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    return LiveCost(model, Origin("file", f"{path}, {age(model)}: {quality(model)}"))


def _tell(progress: Progress | None, phase: str, share: float) -> None:
    if progress is not None:
        progress(phase, share)
