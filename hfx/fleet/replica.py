"""A replica's process: introduces itself, builds its engine, serves it until it is told to stop.

`python -m hfx.fleet.replica ID EPOCH` reads its `ReplicaSpec` from standard input, one line, and
lives no longer than that stays open. Exit codes: 0 told to stop, 2 a setting is impossible, 3 the
engine has died, 1 anything else. Seconds.
"""

from __future__ import annotations

import logging
import os
import socket
import sys
import time
from importlib import import_module
from pathlib import Path
from typing import Any

import zmq

from hfx.cost.profile import dumps
from hfx.engine.engine import Engine
from hfx.engine.errors import EngineDead
from hfx.engine.threads import let_idle_threads_sleep

from .cipher import connect_encrypted
from .lifeline import die_with_parent, read_line
from .messages import (
    VERSION,
    Failed,
    Hello,
    Message,
    ProtocolError,
    Ready,
    Unwelcome,
    Welcome,
    address,
    encode,
    to_replica,
)
from .pulse import Pulse, Vitals
from .spec import ReplicaSpec
from .worker import OrdersLost, Worker

logger = logging.getLogger(__name__)

WELCOME_S = 60.0  # for a parent that is busy starting many
LINGER_MS = 1000  # for the last words
# What building raises for files, settings and machines that don't fit together.
MENDABLE = (ValueError, OSError, ImportError, MemoryError, RuntimeError)


class NotWelcome(RuntimeError):
    """The parent does not want this process, or is not there."""


class OffsetClock:
    """The parent's clock, read on a machine with another one."""

    def __init__(self, offset_s: float) -> None:
        self._offset_s = offset_s

    def now_s(self) -> float:
        """The present time."""
        return time.monotonic() + self._offset_s


def run(spec: ReplicaSpec, lifeline: int | None = None) -> int:
    """Be a replica; returns the exit code. `lifeline` is a descriptor that closes with its parent.

    For the process's main thread, before torch is imported: devices are made visible here.
    """
    os.environ.update(spec.env)
    if spec.cores and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, spec.cores)
    logging.basicConfig(
        level=spec.log_level.upper(),
        format=f"%(asctime)s %(levelname)s {spec.name} %(name)s: %(message)s",
    )
    let_idle_threads_sleep()
    context = zmq.Context[zmq.Socket[bytes]]()
    connection = context.socket(zmq.DEALER)
    connection.setsockopt(zmq.ROUTING_ID, address(spec.replica_id, spec.epoch, "main"))
    connection.setsockopt(zmq.LINGER, LINGER_MS)
    connection.setsockopt(zmq.SNDHWM, 0)  # the window of news bounds it
    connection.setsockopt(zmq.RCVHWM, 0)
    connect_encrypted(connection, spec.key)
    connection.connect(spec.endpoint)
    try:
        return _introduced(spec, context, connection, lifeline)
    except NotWelcome as error:
        logger.error("%s", error)
        return 1
    finally:
        connection.close()
        context.destroy()


def _introduced(
    spec: ReplicaSpec,
    context: zmq.Context[zmq.Socket[bytes]],
    connection: zmq.Socket[bytes],
    lifeline: int | None,
) -> int:
    welcome, offset_s = _greet(spec, connection)
    vitals = Vitals(loading=("start", 0.0))
    pulse = Pulse(context, spec, welcome.lease_s, vitals, lifeline)
    pulse.start()
    engine: Engine | None = None
    try:
        engine = _built(spec, vitals)
        if offset_s:
            engine.clock = OffsetClock(offset_s)
        vitals.loading = None
        _say(connection, _ready(spec, engine))
        Worker(connection, engine, spec.epoch, welcome, vitals).run()
    except (EngineDead, OrdersLost) as error:
        _say(connection, Failed(spec.epoch, str(error), False))
        return 3
    except MENDABLE as error:
        logger.log(logging.DEBUG if vitals.loading else logging.ERROR, "ended", exc_info=True)
        reason = " ".join(str(error).split()) or type(error).__name__
        _say(connection, Failed(spec.epoch, reason, vitals.loading is not None))
        return 2 if vitals.loading else 1
    finally:
        if engine is not None:
            engine.close()
        pulse.stop()
    return 0


def _greet(spec: ReplicaSpec, connection: zmq.Socket[bytes]) -> tuple[Welcome, float]:
    """Say hello and wait for the answer; also how far the parent's clock is ahead."""
    sent_s = time.monotonic()
    who = (spec.epoch, VERSION, spec.replica_id, spec.token, os.getpid())
    _say(connection, Hello(*who, host_name(), sent_s))
    if not connection.poll(int(WELCOME_S * 1000)):
        raise NotWelcome(f"no parent answers at {spec.endpoint} within {WELCOME_S:g} s")
    try:
        answer = to_replica(connection.recv())
    except ProtocolError as error:
        raise NotWelcome(f"the parent at {spec.endpoint} speaks otherwise: {error}") from error
    if isinstance(answer, Unwelcome):
        raise NotWelcome(answer.reason)
    if not isinstance(answer, Welcome):
        raise NotWelcome(f"the parent at {spec.endpoint} answers with {type(answer).__name__}")
    if answer.now_s is None:
        return answer, 0.0
    return answer, answer.now_s - (sent_s + time.monotonic()) / 2


def _built(spec: ReplicaSpec, vitals: Vitals) -> Engine:
    def progress(phase: str, share: float) -> None:
        vitals.loading = (phase, share)

    module, _, function = spec.builder.partition(":")
    engine, _model = getattr(import_module(module), function)(spec.engine, progress)
    assert isinstance(engine, Engine)
    return engine


def _ready(spec: ReplicaSpec, engine: Engine) -> Ready:
    cost, pool = engine.cost, engine.pool
    return Ready(
        spec.epoch,
        engine.max_model_len,
        pool.total,
        pool.block_tokens,
        engine.vocabulary,
        pool.prefix_caching,
        None if cost is None else dumps(cost.model),
        ("off", "off") if cost is None else (cost.origin.kind, cost.origin.text),
    )


def _say(connection: zmq.Socket[Any], message: Message) -> None:
    connection.send(encode(message))


def host_name() -> str:
    """Names this machine's present run, so that two processes can tell if they share a clock."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return socket.gethostname()


def main() -> None:
    """The program."""
    die_with_parent()
    line = read_line(0)
    if not line:
        sys.exit(1)  # its parent was gone before it had said anything
    code = run(ReplicaSpec.from_json(line), lifeline=0)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)  # threads of libraries can't hold it up


if __name__ == "__main__":
    main()
