"""Importing torch_npu, which is where torch learns that there are NPUs."""

from __future__ import annotations

from importlib import import_module
from types import ModuleType

from ..probe import failure

NEEDS = "needs torch_npu 2.13.0 and CANN"


def import_torch_npu() -> ModuleType:
    """The module.

    Raises:
        ImportError: it can't be imported, and why.
    """
    try:
        return import_module("torch_npu")
    except (ImportError, OSError, RuntimeError) as error:  # it loads CANN's libraries
        raise ImportError(f"{NEEDS}: importing it {failure(error)}") from error
