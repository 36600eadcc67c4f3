"""The Ray actor of a replica: it starts the replica's process on its node, and dies with it.

The engine is not in the actor's own process, so that neither's threads hold up the other's, a
stopped engine can be killed, and how it ended is known. Ray is not imported here.
"""

from __future__ import annotations

import os
import select
import threading

from .launch import LocalProcess, begin
from .spec import ReplicaSpec


class Keeper:
    """Its methods run in threads of the actor, side by side."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._process: LocalProcess | None = None
        self._begun = threading.Event()
        self._lock = threading.Lock()
        self._is_killed = False

    def __repr__(self) -> str:
        return self._name  # Ray puts it before each line that is logged

    def run(self, spec: bytes) -> str:
        """Start the process of a `ReplicaSpec` and wait for its end; how it ended.

        The kernel ends the process with the thread that is in here, and so with the actor.
        """
        with self._lock:
            if self._is_killed:
                return "killed before it had begun"
            process = self._process = begin(ReplicaSpec.from_json(spec))
        self._begun.set()
        if process.exit_fd is not None:
            select.select([process.exit_fd], [], [])
        while not process.wait(1.0):
            pass
        return process.why()

    def begun(self) -> tuple[str, int]:
        """Wait for the start; the node's name and the process's id."""
        self._begun.wait()
        assert self._process is not None and self._process.pid is not None
        return os.uname().nodename, self._process.pid

    def kill(self) -> None:
        """End the process and what it has started, at once."""
        with self._lock:
            self._is_killed = True
            if self._process is not None:
                self._process.kill()
