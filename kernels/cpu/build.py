"""Whether the extension was built from the sources that lie beside it, in an editable checkout."""

from __future__ import annotations

import logging
from hashlib import sha256
from pathlib import Path

from .. import _cpu

logger = logging.getLogger(__name__)

HERE = Path(__file__).parent


def fingerprint(folder: Path = HERE) -> str | None:
    """A hash of all sources in a folder, as CMakeLists.txt makes it; None where there are none."""
    files = sorted([*folder.glob("*.cpp"), *folder.glob("*.hpp")], key=lambda file: file.name)
    lines = (f"{file.name} {sha256(file.read_bytes()).hexdigest()}\n" for file in files)
    return sha256("".join(lines).encode()).hexdigest() if files else None


def warn_if_stale(folder: Path = HERE) -> bool:
    """Say so, and return true, where the extension was built from other sources than these."""
    found = fingerprint(folder)
    built = getattr(_cpu, "sources", str)()  # a build of before there were fingerprints has none
    if found in (None, built):
        return False
    logger.warning(
        "the CPU kernels in %s were built from other sources than those in %s: build them again "
        "(make install, or pip install -e .)",
        _cpu.__file__,
        folder,
    )
    return True
