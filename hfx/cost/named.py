"""Which cost model a name stands for: a preset's name, or the path of a profile."""

from __future__ import annotations

from pathlib import Path

from .presets import names, preset
from .profile import load
from .step import StepCost


def named(name: str) -> StepCost:
    """The preset of that name, or the profile at that path.

    Raises:
        ValueError: there is neither, or the profile is damaged; the message says what there is.
    """
    if name in names():
        return preset(name)
    try:
        return load(Path(name).expanduser())
    except OSError as error:
        raise ValueError(
            f"cost profile {name!r}: {error.strerror}; give the path of a profile, or a preset "
            f"({', '.join(names())})"
        ) from error
