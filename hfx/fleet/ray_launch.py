"""Replicas on the nodes of a Ray cluster: a launcher whose actors another process owns.

Ray places them, starts them and says when one has died; what replicas compute and tell goes
straight between them and the parent, over TCP. Nothing here imports Ray. Seconds.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import os
import queue
import secrets
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from importlib.util import find_spec

from .launch import Handle
from .ray_lines import (
    Begin,
    Broken,
    Connected,
    Ended,
    Kill,
    Order,
    Placed,
    Report,
    Waits,
    encode,
    to_report,
)
from .spec import ReplicaSpec

logger = logging.getLogger(__name__)

CONNECT_S = 60.0  # for a cluster to be joined, or started
REACH_S = 5.0  # for its head's port to answer
CLOSE_S = 12.0


class RayProcess:
    """A replica's process in an actor of Ray; see `Handle`."""

    def __init__(self, key: int, driver: Driver) -> None:
        self._key = key
        self._driver = driver
        self._why = ""
        self._ended = threading.Event()
        self._waits = "Ray to place it"
        self._lock = threading.Lock()
        reading, self._writing = os.pipe()
        self.exit_fd: int | None = reading
        self.pid: int | None = None
        self.node = ""

    def alive(self) -> bool:
        """See `Handle`."""
        return not self._ended.is_set()

    def why(self) -> str:
        """See `Handle`."""
        return self._why

    def waits_for(self) -> str:
        """See `Handle`."""
        return self._waits

    def kill(self) -> None:
        """See `Handle`."""
        if self.alive():
            self._driver.tell(Kill(self._key))

    def wait(self, timeout_s: float) -> bool:
        """See `Handle`."""
        return self._ended.wait(timeout_s)

    def close(self) -> None:
        """See `Handle`."""
        with self._lock:
            if self.exit_fd is not None:
                os.close(self.exit_fd)
                self.exit_fd = None
            self._close_writing()

    # What the driver tells, in its reader's thread

    def waits(self, why: str) -> None:
        """It can't begin yet."""
        self._waits = why

    def placed(self, node: str, pid: int) -> None:
        """It has begun."""
        self.node, self.pid, self._waits = node, pid, ""

    def ended(self, why: str) -> None:
        """It has ended; `tell_end` is to follow."""
        self._why, self._waits = why, ""
        self._ended.set()

    def tell_end(self) -> None:
        """Close the descriptor's other end, which makes it readable."""
        with self._lock:
            self._close_writing()

    def _close_writing(self) -> None:
        if self._writing >= 0:
            os.close(self._writing)
            self._writing = -1


class Driver:
    """The process that owns the actors, seen from here; it ends when its input closes."""

    def __init__(self, address: str) -> None:
        self._handles: dict[int, RayProcess] = {}
        self._lock = threading.Lock()
        self._reason = ""
        self.connected: Connected | None = None
        self.has_answered = threading.Event()
        self._process = subprocess.Popen(
            [sys.executable, "-m", "hfx.fleet.ray_driver", address],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, **(_private() if address == "none" else {})},
            start_new_session=True,  # signals for the parent's group (Ctrl-C) are the parent's
        )
        self._orders: queue.SimpleQueue[Order | None] = queue.SimpleQueue()
        for target in (self._write, self._read):
            threading.Thread(target=target, name="hfx-ray", daemon=True).start()

    @property
    def reason(self) -> str:
        """Why it has ended; empty while it runs."""
        return self._reason

    def tell(self, order: Order) -> None:
        """Have an order written, in a thread, for a process that may be slow to read."""
        self._orders.put(order)

    def begin(self, key: int, spec: ReplicaSpec) -> RayProcess:
        """Start a replica.

        Raises:
            OSError: the process has ended.
        """
        handle = RayProcess(key, self)
        with self._lock:
            if self._reason:
                handle.close()
                raise OSError(self._reason)
            self._handles[key] = handle
        self.tell(Begin(key, spec))
        return handle

    def kill(self) -> None:
        """End it at once."""
        self._process.kill()

    def close(self) -> None:
        """Have it end its actors and itself; waits."""
        self._orders.put(None)
        try:
            self._process.wait(CLOSE_S)
        except subprocess.TimeoutExpired:
            logger.error("Ray did not let go of its actors within %g s: they are cut off", CLOSE_S)
            self._process.kill()
            self._process.wait()

    def _write(self) -> None:
        orders = self._process.stdin
        assert orders is not None
        with contextlib.suppress(BrokenPipeError), orders:  # that it is gone, its reader tells
            while (order := self._orders.get()) is not None:
                orders.write(encode(order))
                orders.flush()

    def _read(self) -> None:
        assert self._process.stdout is not None
        reason = ""
        with self._process.stdout as lines:
            for line in lines:
                report = to_report(line)
                if isinstance(report, Broken):
                    reason = report.reason
                self._hear(report)
        code = self._process.wait()
        with self._lock:
            self._reason = reason or f"the process that owns Ray's actors ended with {code}"
            lost, self._handles = list(self._handles.values()), {}
        _end(lost, self._reason)
        self._orders.put(None)
        self.has_answered.set()

    def _hear(self, report: Report) -> None:
        if isinstance(report, Connected):
            self.connected = report
            self.has_answered.set()
        elif isinstance(report, Ended):
            with self._lock:
                found = [self._handles.pop(key, None) for key in report.keys]
            _end([handle for handle in found if handle is not None], report.why)
        elif isinstance(report, Waits | Placed):
            with self._lock:
                handle = self._handles.get(report.key)
            if handle is not None and isinstance(report, Waits):
                handle.waits(report.why)
            elif handle is not None and isinstance(report, Placed):
                handle.placed(report.node, report.pid)


def _end(handles: Sequence[RayProcess], why: str) -> None:
    """All of them, before anybody hears of one."""
    for handle in handles:
        handle.ended(why)
    for handle in handles:
        handle.tell_end()


class RayLauncher:
    """Replicas as actors of a cluster; make one by `connect`.

    `cluster` is what the cluster had of each resource then. A driver that has ended, as it does
    when it loses the cluster, is replaced with the next start.
    """

    def __init__(self, address: str, driver: Driver, connected: Connected, port: int) -> None:
        self._address = address
        self._port = port
        self._driver = driver
        self._node = connected.address
        self._keys = itertools.count(1)
        self.cluster: Mapping[str, float] = connected.resources

    @classmethod
    def connect(
        cls, address: str = "auto", port: int = 0, timeout_s: float = CONNECT_S
    ) -> RayLauncher:
        """Join the cluster at `address`: `auto`, `host:port`, or `none` to start one here. Blocks.

        `port` is the one that replicas shall connect to; 0 for a free one.

        Raises:
            ValueError: Ray is not installed, or no cluster could be joined within the timeout.
        """
        check(address)
        began_s = time.monotonic()
        driver = Driver(address)
        if not driver.has_answered.wait(timeout_s):
            driver.kill()
            raise ValueError(f"{_no_cluster(address)} within {timeout_s:g} s: {REMEDY}")
        if driver.connected is None:
            raise ValueError(f"{_no_cluster(address)}: {driver.reason}; {REMEDY}")
        logger.info("joined Ray's cluster in %.1f s", time.monotonic() - began_s)
        return cls(address, driver, driver.connected, port)

    @property
    def endpoint(self) -> str:
        """See `Launcher`: of the address by which other nodes know this one."""
        return f"tcp://{self._node}:{self._port or '*'}"

    def reachable(self, bound: str) -> str:
        """See `Launcher`."""
        return bound

    def start(self, spec: ReplicaSpec) -> Handle:
        """See `Launcher`."""
        if self._driver.reason:
            logger.warning("joining Ray's cluster anew (%s)", self._driver.reason)
            self._driver = Driver(self._address)
        return self._driver.begin(next(self._keys), spec)

    def close(self) -> None:
        """See `Launcher`."""
        self._driver.close()


REMEDY = (
    "start one with `ray start --head` (and `ray start --address HOST:PORT` on other nodes), give "
    "its address by --ray-address, or let hfx start one here by --ray-address none; one that wants "
    "a token must find it in RAY_AUTH_MODE and RAY_AUTH_TOKEN here too"
)


def check(address: str) -> None:
    """Complain at once about what can be seen without Ray.

    Raises:
        ValueError: Ray is not installed, or nothing listens at the address.
    """
    if find_spec("ray") is None:
        raise ValueError("--launcher ray needs Ray: pip install 'hfx[ray]'")
    if address in ("auto", "none"):
        return
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal() or "/" in host:
        raise ValueError(f"ray_address is {address!r}: it must be auto, none or HOST:PORT")
    try:
        socket.create_connection((host, int(port)), REACH_S).close()
    except (OSError, OverflowError) as error:
        raise ValueError(f"{_no_cluster(address)}: {error}; {REMEDY}") from None


def _private() -> dict[str, str]:
    """The environment of a cluster for this process alone: a token of its own keeps others out."""
    return {
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": secrets.token_hex(32),
        "RAY_USAGE_STATS_ENABLED": "0",
    }


def _no_cluster(address: str) -> str:
    if address == "none":
        return "Ray could not be started here"
    return "no Ray cluster was found" + ("" if address == "auto" else f" at {address}")
