"""Cost models of devices that others measured, ready to use without a device at hand.

Each is a JSON file beside this module that says where its numbers come from and how far they err.
"""

from __future__ import annotations

from importlib.resources import files

from ..profile import loads
from ..step import StepCost

SUFFIX = ".json"


def names() -> tuple[str, ...]:
    """The presets there are."""
    found = (entry.name for entry in files(__name__).iterdir())
    return tuple(sorted(name.removesuffix(SUFFIX) for name in found if name.endswith(SUFFIX)))


def preset(name: str) -> StepCost:
    """A preset by its name.

    Raises:
        ValueError: there is none of that name; the message lists those there are.
    """
    if name not in names():
        raise ValueError(f"there is no preset {name!r}: {', '.join(names())}")
    return loads((files(__name__) / f"{name}{SUFFIX}").read_text(encoding="utf-8"))
