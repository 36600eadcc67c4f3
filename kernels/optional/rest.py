"""What an attention library lacks: the other operators, and how one is found and loaded."""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
from typing import Any

import torch

from .. import probe
from ..fallback import TorchOperators
from ..operators import Operators


def rest_on(device: torch.device) -> Operators:
    """The other operators on that device: Triton's where it runs, else plain torch."""
    if device.type != "cuda":
        return TorchOperators(device)
    try:
        from ..gpu import TritonOperators

        return TritonOperators(device)
    except ImportError:
        return TorchOperators(device)


def first_library(*names: str) -> tuple[str, Any]:
    """(name, module) of the first of those modules that can be imported.

    Raises:
        ImportError: none can, with every one's reason, or there is no GPU.
    """
    reasons = []
    for name in names:
        try:
            return name, import_module(name)
        except (ImportError, OSError, RuntimeError) as error:  # they load CUDA's libraries
            reasons.append(f"importing {name} {probe.failure(error)}")
    raise ImportError("; ".join(reasons))


def need(device: torch.device, *names: str) -> None:
    """Refuse what is plainly missing, before a library is loaded in vain.

    Raises:
        ImportError: none of those modules is installed, or torch finds no GPU.
    """
    if not any(find_spec(name) for name in names):
        raise ImportError(f"needs the module {' or '.join(names)}: not installed")
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ImportError("finds no GPU: torch.cuda.is_available() is false")
