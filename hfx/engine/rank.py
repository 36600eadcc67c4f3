"""A process that is one rank of a replica, from 1 up: it computes what rank 0 tells it to.

It ends when rank 0 ends, however that does: its pipe closes, and on Linux the kernel sees to it.
"""

from __future__ import annotations

import contextlib
import ctypes
import logging
import os
import signal
import sys
import threading
import time
from multiprocessing.connection import Connection

import msgspec

from hfx.config import EngineConfig

from .ranks import BEAT_S
from .threads import let_idle_threads_sleep

PR_SET_PDEATHSIG = 1


def main() -> None:
    """Run the rank that the command line names, over the pipes that it was given."""
    rank, orders_fd, beats_fd = map(int, sys.argv[2:5])
    # A signal to the whole group is rank 0's to answer, which may have requests to finish.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    die_with_parent()
    let_idle_threads_sleep()
    logging.basicConfig(  # rank 0 has given the same warnings
        level=logging.ERROR, format=f"%(asctime)s %(levelname)s rank {rank}: %(message)s"
    )
    beats = Connection(beats_fd, readable=False)
    lock = threading.Lock()
    threading.Thread(target=beat, args=(beats, lock), name="hfx-beats", daemon=True).start()
    os._exit(run(rank, Connection(orders_fd), beats, lock))


def run(rank: int, orders: Connection, beats: Connection, lock: threading.Lock) -> int:
    """Serve until rank 0 has gone; the exit code."""
    try:
        from .equip_rank import serve  # here: it imports torch, while rank 0 hears the beats

        config = msgspec.json.decode(orders.recv_bytes(), type=EngineConfig)
        serve(config, rank, orders)
    except (EOFError, BrokenPipeError, ConnectionResetError):
        return 0
    except BaseException as error:
        logging.getLogger(__name__).debug("ended by an error", exc_info=error)
        with lock, contextlib.suppress(OSError):
            beats.send_bytes(f"{type(error).__name__}: {error}".encode())
        return 1
    return 0


def die_with_parent() -> None:
    """Have the kernel kill this process once the thread that made it is gone; Linux only.

    A parent that has died already is noticed by the pipes.
    """
    if sys.platform.startswith("linux"):
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


def beat(beats: Connection, lock: threading.Lock) -> None:
    """Show that this process lives, until nobody looks: then end it, whatever it waits for."""
    while True:
        try:
            with lock:
                beats.send_bytes(b"")
        except OSError:
            os._exit(0)
        time.sleep(BEAT_S)
