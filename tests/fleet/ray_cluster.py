"""A Ray cluster on this machine for tests: a head that computes nothing, and nodes of two CPUs."""

import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

START_S = 90.0
CPUS = 2
# Death of a node shall be noticed within seconds, and not in half a minute.
CHECKS = (
    '{"health_check_initial_delay_ms": 500, "health_check_period_ms": 500, '
    '"health_check_timeout_ms": 1000, "health_check_failure_threshold": 4}'
)


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("", 0))
        return int(listener.getsockname()[1])


def cmdline(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode().strip()
    except OSError:
        return ""


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def parent_of(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def descendants(pid: int) -> list[int]:
    found: list[int] = []
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            children = [int(child) for child in task.read_text().split()]
        except OSError:
            continue
        for child in children:
            found += [child, *descendants(child)]
    return found


class Node:
    """What `ray start` has started, until it is closed."""

    def __init__(self, folder: Path, env: Mapping[str, str], *arguments: str) -> None:
        ports = ("node-manager-port", "object-manager-port", "metrics-export-port")
        self._log = folder / f"node-{free_port()}.log"
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "ray.scripts.scripts", "start", *arguments]
                + [f"--{name}={free_port()}" for name in ports]
                + ["--min-worker-port=0", "--max-worker-port=0", "--object-store-memory=80000000"]
                + ["--num-gpus=0", "--disable-usage-stats", "--block"],
                env={**os.environ, **env},
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        deadline_s = time.monotonic() + START_S
        while b"Ray runtime started" not in self.said():
            assert self._process.poll() is None and time.monotonic() < deadline_s, self.said()
            time.sleep(0.1)

    def said(self) -> bytes:
        return self._log.read_bytes()

    @property
    def raylet(self) -> int:
        """The process that is the node to the others."""
        found = [pid for pid in descendants(self._process.pid) if "/raylet " in cmdline(pid)]
        return found[0]

    def kill(self) -> None:
        """As if its machine had lost its power: nothing that runs on it says a last word."""
        mine = descendants(self._process.pid)
        os.kill(self.raylet, signal.SIGKILL)
        for pid in mine:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue

    def close(self) -> None:
        mine = descendants(self._process.pid)
        self._process.terminate()
        try:
            self._process.wait(20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        for pid in mine:
            if is_alive(pid):
                os.kill(pid, signal.SIGKILL)


class Cluster:
    """A head and `nodes`; `grow` gives it one more."""

    def __init__(self) -> None:
        folder = tempfile.mkdtemp(prefix="hfx-ray-", dir="/tmp")  # sockets' paths are short
        self._folder = Path(folder)
        port = free_port()
        self.env = {
            "RAY_AUTH_MODE": "token",  # its ports listen on every address of this machine
            "RAY_AUTH_TOKEN": secrets.token_hex(32),
            "RAY_USAGE_STATS_ENABLED": "0",
        }
        self.head = Node(
            self._folder,
            self.env,
            *("--head", f"--port={port}", "--num-cpus=0", "--include-dashboard=false"),
            *(f"--temp-dir={self._folder}", f"--system-config={CHECKS}"),
        )
        self.nodes: list[Node] = []
        self.address = f"127.0.0.1:{port}"

    def grow(self) -> Node:
        self.nodes.append(
            Node(self._folder, self.env, f"--address={self.address}", f"--num-cpus={CPUS}")
        )
        return self.nodes[-1]

    def have(self, nodes: int) -> None:
        while len(self.nodes) < nodes:
            self.grow()

    def kill(self, raylet: int) -> None:
        """Kill the node whose raylet that is."""
        node = next(node for node in self.nodes if node.raylet == raylet)
        node.kill()
        node.close()
        self.nodes.remove(node)

    def close(self) -> None:
        for node in (*self.nodes, self.head):
            node.close()
        shutil.rmtree(self._folder, ignore_errors=True)
