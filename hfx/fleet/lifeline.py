"""Ends a replica's process with its parent's, however that dies: no orphan keeps a device.

On Linux the kernel does it, even to a stopped process; everywhere, the pipe from the parent closes.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1


def die_with_parent() -> None:
    """Have the kernel kill this process once the thread that made it is gone; Linux only.

    A parent that has died already is noticed by the pipe.
    """
    if sys.platform.startswith("linux"):
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


def end_group(code: int = 1) -> None:
    """End this process at once, and its own children where it leads a group of its own."""
    if os.getpgrp() == os.getpid():
        os.killpg(0, signal.SIGKILL)
    os._exit(code)


def read_line(fd: int) -> bytes:
    """The first line from a descriptor, and nothing behind it; empty if it closes before."""
    line = bytearray()
    while not line.endswith(b"\n"):
        byte = os.read(fd, 1)
        if not byte:
            return b""
        line += byte
    return bytes(line)
