"""How many kernels this process has compiled: at starts, and while it was serving.

Process-wide, as compilers are. One while serving holds up every request: it is logged.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Literal

logger = logging.getLogger(__name__)

Phase = Literal["start", "serving"]


class Compilations:
    """Counts by phase; from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._starting = 0
        self._counts: dict[str, int] = {"start": 0, "serving": 0}

    @property
    def counts(self) -> Mapping[str, int]:
        """How many there were in each phase."""
        with self._lock:
            return dict(self._counts)

    @contextmanager
    def starting(self) -> Iterator[None]:
        """What is compiled meanwhile belongs to a start."""
        with self._lock:
            self._starting += 1
        try:
            yield
        finally:
            with self._lock:
                self._starting -= 1

    def hear(self, what: str) -> None:
        """One more; `what` says of what."""
        with self._lock:
            phase: Phase = "start" if self._starting else "serving"
            self._counts[phase] += 1
        if phase == "serving":
            logger.warning("compiled while serving, please report: %s", what)


COMPILATIONS = Compilations()
