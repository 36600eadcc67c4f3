"""A server under measurement as a process: its start, its end, its memory. Unix only."""

import os
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO

STOP_S = 30  # then it is killed


@dataclass(frozen=True, slots=True)
class ServerProcess:
    """A started server, ready or not. `started_s` is on `time.perf_counter`."""

    process: subprocess.Popen[bytes]
    base_url: str
    started_s: float
    log: IO[bytes]

    def check(self) -> None:
        """Raise RuntimeError with the end of its output if it has ended."""
        if self.process.poll() is not None:
            self.log.seek(0)
            tail = self.log.read()[-2000:].decode("utf-8", errors="replace")
            raise RuntimeError(f"the server ended with status {self.process.returncode}:\n{tail}")

    def memory_bytes(self) -> int:
        """The most memory that it held at once, its children's most included."""
        return sum(_high_water_bytes(pid) for pid in _family(self.process.pid))


@contextmanager
def serving(
    command: Sequence[str], port: int, environment: Mapping[str, str] | None = None
) -> Iterator[ServerProcess]:
    """Run a server for the time of a `with` block and end it with all of its children.

    `environment` is added to this process's own.
    """
    with tempfile.TemporaryFile() as log:
        started_s = time.perf_counter()
        process = subprocess.Popen(
            command,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            env={**os.environ, **(environment or {})},
        )
        try:
            yield ServerProcess(process, f"http://127.0.0.1:{port}", started_s, log)
        finally:
            _end(process)


def free_port() -> int:
    """A port that nobody listens on just now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _end(process: subprocess.Popen[bytes]) -> None:
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(STOP_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)  # children that outlived it


def _family(pid: int) -> list[int]:
    """A process and its descendants."""
    found = [pid]
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in task.read_text().split():
            found += _family(int(child))
    return found


def _high_water_bytes(pid: int) -> int:
    status = Path(f"/proc/{pid}/status").read_text().splitlines()
    line = next(line for line in status if line.startswith("VmHWM:"))
    return int(line.split()[1]) * 1024
