"""A replica's signs of life, sent by a thread of its own while the engine's thread computes.

Seconds. The thread also ends the process when its parent is gone.
"""

from __future__ import annotations

import os
import threading
import time
from dataclasses import dataclass
from pathlib import Path

import zmq

from .cipher import connect_encrypted
from .lifeline import end_group
from .messages import Beat, Loading, ProtocolError, address, encode, to_replica
from .spec import ReplicaSpec

BEATS_PER_LEASE = 5
PARENT_LEASES = 10.0  # a parent that was not heard of for so many leases is gone
LEAST_PARENT_S = 30.0
_STATM = Path("/proc/self/statm")


@dataclass(slots=True)
class Vitals:
    """What the engine's thread lets the other one tell; written by the first only."""

    sent: int = 0
    heard: int = 0
    turn: int = 0
    step_s: float | None = None
    loading: tuple[str, float] | None = None


class Pulse:
    """The thread: start it once the parent has said welcome.

    `lifeline` is a descriptor that closes with the parent, None where there is none.
    """

    def __init__(
        self,
        context: zmq.Context[zmq.Socket[bytes]],
        spec: ReplicaSpec,
        lease_s: float,
        vitals: Vitals,
        lifeline: int | None,
    ) -> None:
        self._replica = spec.replica_id
        self._epoch = spec.epoch
        self._interval_s = lease_s / BEATS_PER_LEASE
        self._patience_s = max(PARENT_LEASES * lease_s, LEAST_PARENT_S)
        self._vitals = vitals
        self._lifeline = lifeline
        self._socket = context.socket(zmq.DEALER)
        self._socket.setsockopt(zmq.ROUTING_ID, address(spec.replica_id, spec.epoch, "beat"))
        self._socket.setsockopt(zmq.LINGER, 0)
        self._socket.setsockopt(zmq.SNDHWM, 16)
        connect_encrypted(self._socket, spec.key)
        self._socket.connect(spec.endpoint)
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="hfx-pulse", daemon=True)

    def start(self) -> None:
        """Begin to beat."""
        self._thread.start()

    def stop(self) -> None:
        """Beat no more; waits for the thread."""
        self._stopping.set()
        self._thread.join()

    def _run(self) -> None:
        poller = zmq.Poller()
        poller.register(self._socket, zmq.POLLIN)
        if self._lifeline is not None:
            poller.register(self._lifeline, zmq.POLLIN)
        heard_s = time.monotonic()
        next_s = 0.0
        while not self._stopping.is_set():
            now_s = time.monotonic()
            if now_s >= next_s:
                self._beat()
                next_s = now_s + self._interval_s
            events = dict(poller.poll(max(1, int((next_s - now_s) * 1000))))
            if self._lifeline in events and not os.read(self._lifeline or 0, 4096):
                end_group()
            if self._socket in events and self._is_answered():
                heard_s = time.monotonic()
            if time.monotonic() - heard_s > self._patience_s:
                end_group()
        self._socket.close()

    def _beat(self) -> None:
        vitals = self._vitals
        try:
            if vitals.loading is not None:
                self._socket.send(encode(Loading(self._epoch, *vitals.loading)), zmq.NOBLOCK)
            beat = Beat(
                self._epoch,
                self._replica,
                vitals.sent,
                vitals.heard,
                vitals.turn,
                vitals.step_s,
                _resident_bytes(),
            )
            self._socket.send(encode(beat), zmq.NOBLOCK)
        except zmq.Again:
            pass  # the parent reads nothing: it hears the next beat, or is gone

    def _is_answered(self) -> bool:
        """Read all answers; whether there was one of this epoch."""
        found = False
        while True:
            try:
                found |= to_replica(self._socket.recv(zmq.NOBLOCK)).epoch == self._epoch
            except zmq.Again:
                return found
            except ProtocolError:
                continue


def _resident_bytes() -> int:
    """Memory of this process; 0 where the system does not tell."""
    try:
        return int(_STATM.read_bytes().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, IndexError):
        return 0
