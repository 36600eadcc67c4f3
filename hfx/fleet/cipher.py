"""Encryption between a parent and replicas of other machines: ZeroMQ's own, by elliptic curves.

Keys are made anew by each process. Who doesn't know the parent's can't speak to it, and who only
listens can't read; how replicas get to know it is their launcher's to protect.
"""

from __future__ import annotations

from typing import Any

import zmq


def listen_encrypted(socket: zmq.Socket[Any]) -> str:
    """Have a socket that is not bound yet encrypt; the key for those who connect, as text.

    Raises:
        ValueError: this ZeroMQ can't.
    """
    _check()
    public, secret = zmq.curve_keypair()
    socket.curve_secretkey = secret
    socket.curve_server = True
    return public.decode()


def connect_encrypted(socket: zmq.Socket[Any], key: str) -> None:
    """Have a socket that is not connected yet encrypt for whoever has that key; empty: for nobody.

    Raises:
        ValueError: this ZeroMQ can't.
    """
    if key:
        _check()
        socket.curve_publickey, socket.curve_secretkey = zmq.curve_keypair()
        socket.curve_serverkey = key.encode()


def _check() -> None:
    if not zmq.has("curve"):
        raise ValueError(
            "this pyzmq has no encryption (CURVE), which replicas of other machines need: install "
            "one from its wheels, or build it with libsodium"
        )
