"""The parent's socket, read and written in its event loop without ever waiting."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable

import zmq

from .cipher import listen_encrypted
from .messages import Message, encode

logger = logging.getLogger(__name__)

MOST_AT_ONCE = 64  # messages in a row, before other work of the loop has its turn
TIMED = 8  # one call in so many is timed: asking for the time takes a system call
QUEUED = 4096  # messages for one replica that does not read: then it is cut off


class Hub:
    """A bound socket that many replicas are connected to; for its loop's thread only.

    `deliver` gets each message with the address that it came from. What crosses a network is
    encrypted: `key` is what those who connect must know, empty on this host's own sockets.
    """

    def __init__(self, endpoint: str, deliver: Callable[[bytes, bytes], None]) -> None:
        self._deliver = deliver
        self._loop = asyncio.get_running_loop()
        self._context = zmq.Context[zmq.Socket[bytes]]()
        self._socket = self._context.socket(zmq.ROUTER)
        self._socket.setsockopt(zmq.LINGER, 0)
        self._socket.setsockopt(zmq.ROUTER_MANDATORY, 1)
        self._socket.setsockopt(zmq.SNDHWM, QUEUED)
        self._socket.setsockopt(zmq.RCVHWM, 0)  # each replica's window of news bounds it
        self.key = listen_encrypted(self._socket) if endpoint.startswith("tcp:") else ""
        self._socket.bind(endpoint)
        self.bound = self._socket.get_string(zmq.LAST_ENDPOINT).rstrip("\0")
        self._fd = int(self._socket.get(zmq.FD))
        self._is_called = False
        self._closed = False
        self.received = 0
        self.busy_s = 0.0  # processor time spent on what has come, by samples
        self._calls = 0
        self._loop.add_reader(self._fd, self._on_readable)

    def send(self, to: bytes, message: Message) -> bool:
        """Hand a message over; false where nobody is there or it reads nothing."""
        try:
            self._socket.send_multipart((to, encode(message)), zmq.NOBLOCK)
        except zmq.ZMQError:
            return False
        finally:
            self._look_again()  # sending may take note of what has come, and the descriptor not
        return True

    def drain(self) -> None:
        """Deliver all that has come."""
        while self._receive():
            pass

    def close(self) -> None:
        """Read and send no more."""
        if not self._closed:
            self._closed = True
            self._loop.remove_reader(self._fd)
            self._socket.close()
            self._context.term()

    def _on_readable(self) -> None:
        self._is_called = False
        if self._closed:
            return
        self._calls += 1
        is_timed = self._calls % TIMED == 0
        began_s = time.thread_time() if is_timed else 0.0
        for _ in range(MOST_AT_ONCE):
            if not self._receive():
                break
        else:
            self._look_again()
        if is_timed:
            self.busy_s += TIMED * (time.thread_time() - began_s)

    def _look_again(self) -> None:
        if not self._is_called and not self._closed:
            self._is_called = True
            self._loop.call_soon(self._on_readable)

    def _receive(self) -> bool:
        if self._closed or not int(self._socket.get(zmq.EVENTS)) & zmq.POLLIN:
            return False
        parts = self._socket.recv_multipart(zmq.NOBLOCK)
        self.received += 1
        if len(parts) != 2:
            logger.warning("a message with a wrong number of parts is left unread")
            return True
        sender, data = parts
        try:
            self._deliver(sender, data)
        except Exception:
            logger.exception("a message of %r failed", sender)
        return True
