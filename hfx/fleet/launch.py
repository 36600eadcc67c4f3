"""Where replicas' processes come from: one interface, and the launcher of processes on this host.

A launcher starts what speaks the fleet's messages (`hfx.fleet.replica.run`) with a `ReplicaSpec`;
whether it has come up, is healthy and what it serves is the fleet's to find out by those messages.
So a launcher for other machines only has to start, watch and kill. Seconds.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from typing import Protocol

from .spec import ReplicaSpec


class Handle(Protocol):
    """One process that was started. Its methods return at once where nothing else is said."""

    @property
    def pid(self) -> int | None:
        """Its process id, for logs; None where it has none that means anything here."""
        ...

    @property
    def exit_fd(self) -> int | None:
        """A descriptor that becomes readable when it ends; None: `alive` is asked now and then.

        It is the handle's: `close` closes it.
        """
        ...

    def alive(self) -> bool:
        """Whether it still runs, as far as its launcher knows."""
        ...

    def why(self) -> str:
        """How it ended, in a few words; empty while it runs."""
        ...

    def waits_for(self) -> str:
        """What it must have before it can begin, in a few words; empty once it has begun."""
        ...

    def kill(self) -> None:
        """End it and what it has started, at once, whatever state it is in."""
        ...

    def wait(self, timeout_s: float) -> bool:
        """Wait for its end; whether it has come. Blocks."""
        ...

    def close(self) -> None:
        """Let go of what the handle holds, after its end."""
        ...


class Launcher(Protocol):
    """Starts replicas. Called in the parent's event loop, so `start` must not wait for long.

    `endpoint` is what the parent's socket binds, `reachable` what replicas connect to.
    """

    @property
    def endpoint(self) -> str:
        """Where the parent shall listen: `ipc://...`, or `tcp://host:*` for other machines."""
        ...

    def reachable(self, bound: str) -> str:
        """The address for replicas of a parent that has bound `bound`."""
        ...

    def start(self, spec: ReplicaSpec) -> Handle:
        """Start a process for a replica.

        Raises:
            OSError: it can't be started now.
        """
        ...

    def close(self) -> None:
        """Let go of everything; all processes have ended."""
        ...


def new_token() -> str:
    """What one process proves itself with."""
    return secrets.token_hex(16)


class LocalProcess:
    """A child of this process. Its standard input is its lifeline: it ends when that closes."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self._process = process
        self.exit_fd: int | None = None
        if hasattr(os, "pidfd_open"):
            with contextlib.suppress(OSError):
                self.exit_fd = os.pidfd_open(process.pid)

    @property
    def pid(self) -> int | None:
        """See `Handle`."""
        return self._process.pid

    def alive(self) -> bool:
        """See `Handle`."""
        return self._process.poll() is None

    def why(self) -> str:
        """See `Handle`."""
        code = self._process.poll()
        if code is None:
            return ""
        if code < 0:
            with contextlib.suppress(ValueError):
                return f"killed by {signal.Signals(-code).name}"
        return f"exit code {code}"

    def waits_for(self) -> str:
        """See `Handle`: for nothing."""
        return ""

    def kill(self) -> None:
        """See `Handle`: its whole process group, so that a stopped one and its own children go."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)
        if self.alive():
            self._process.kill()

    def wait(self, timeout_s: float) -> bool:
        """See `Handle`."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(timeout_s)
        return not self.alive()

    def close(self) -> None:
        """See `Handle`."""
        if self.exit_fd is not None:
            os.close(self.exit_fd)
            self.exit_fd = None
        if self._process.stdin is not None:
            with contextlib.suppress(OSError):
                self._process.stdin.close()
        self._process.poll()


def begin(spec: ReplicaSpec) -> LocalProcess:
    """Start a replica's process on this host, to be called in a thread that lives as long as the
    parent (the kernel ends a child with the thread that made it).

    Raises:
        OSError: it can't be started now.
    """
    process = subprocess.Popen(
        [sys.executable, "-m", "hfx.fleet.replica", str(spec.replica_id), str(spec.epoch)],
        stdin=subprocess.PIPE,
        env={**os.environ, **spec.env},
        start_new_session=True,  # signals for the parent's group (Ctrl-C) are the parent's
    )
    assert process.stdin is not None
    try:
        process.stdin.write(spec.to_json() + b"\n")
        process.stdin.flush()
    except BrokenPipeError:
        pass  # it has died already, as its handle will say
    return LocalProcess(process)


class LocalLauncher:
    """Processes of this host, over a socket in a folder that only this user may enter.

    They are started as new programs and not forked: a fork of a process with threads may hang.
    """

    def __init__(self) -> None:
        self._folder = tempfile.mkdtemp(prefix="hfx-fleet-")

    @property
    def endpoint(self) -> str:
        """See `Launcher`."""
        return f"ipc://{self._folder}/parent"

    def reachable(self, bound: str) -> str:
        """See `Launcher`."""
        return bound

    def start(self, spec: ReplicaSpec) -> Handle:
        """See `Launcher` and `begin`."""
        return begin(spec)

    def close(self) -> None:
        """See `Launcher`."""
        shutil.rmtree(self._folder, ignore_errors=True)


def wait_all(handles: list[Handle], timeout_s: float) -> list[Handle]:
    """Wait for the ends of several; those that have not ended in time. Blocks."""
    until_s = time.monotonic() + timeout_s
    return [each for each in handles if not each.wait(max(0.0, until_s - time.monotonic()))]
