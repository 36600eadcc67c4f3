"""The processes that compute a model together with this one, rank 0: started, watched, ended.

Each has two pipes: over one it is told what to compute, over the other it shows that it lives. One
thread watches them. As soon as one rank has gone or is silent for too long, the others are killed
and whoever computes hears of it: no collective waits for a rank that won't come. Seconds.
"""

from __future__ import annotations

import contextlib
import json
import logging
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from multiprocessing import Pipe
from multiprocessing.connection import Connection, wait

import msgspec

from hfx.config import EngineConfig

from .errors import EngineDead

logger = logging.getLogger(__name__)

BEAT_S = 0.5  # how often a rank shows that it lives
START_SILENCE_S = 120.0  # a rank may be silent for so long while it imports and loads
SILENCE_S = 10.0  # and once it serves
GRACE_S = 10.0  # what a rank gets to end by itself
ECHO_S = 0.05
HEAR_S = 3.0  # a failed collective is explained by then, if a rank's end is what explains it
CODE = "import json, sys; sys.path[:] = json.loads(sys.argv[1]); from hfx.engine.rank import main"

Tell = Callable[[EngineDead], None]


class Ranks:
    """Ranks 1 and up of a replica. Calls come from one thread but for those that say otherwise.

    Raises:
        OSError: a process can't be started.
    """

    def __init__(self, config: EngineConfig) -> None:
        self.count = config.tensor_parallel_size
        self._config = msgspec.json.encode(config)
        self._processes: list[subprocess.Popen[bytes]] = []
        self._orders: list[Connection] = []
        self._beats: list[Connection] = []
        self._listeners: list[Tell] = []
        self._ends: list[Callable[[], None]] = []
        self._lock = threading.Lock()
        self._closing = False
        self._serving = False
        self._lost: EngineDead | None = None
        self._gone = threading.Event()  # a rank was lost, or all have ended
        started = threading.Event()
        # On Linux a rank dies with the thread that made it: it must be one that stays.
        self._watcher = threading.Thread(
            target=self._watch, args=(started,), name="hfx-ranks", daemon=True
        )
        self._watcher.start()
        started.wait()
        if self._lost is not None:
            raise self._lost

    @property
    def lost(self) -> EngineDead | None:
        """Why the ranks can't compute any more; from any thread."""
        return self._lost

    @property
    def pids(self) -> tuple[int, ...]:
        """Process ids, from rank 1 up; from any thread."""
        return tuple(process.pid for process in self._processes)

    def on_loss(self, tell: Tell) -> None:
        """Have a rank's loss told, in a thread of its own; from any thread."""
        with self._lock:
            if self._lost is None:
                self._listeners.append(tell)
                return
        tell(self._lost)

    def at_end(self, call: Callable[[], None]) -> None:
        """Have something done when they are closed."""
        self._ends.append(call)

    def send(self, message: bytes) -> None:
        """To all ranks.

        Raises:
            EngineDead: a rank was lost, or all were closed.
        """
        try:
            for pipe in self._orders:
                pipe.send_bytes(message)
        except OSError as error:
            raise self.explained(error) from error

    def receive(self) -> list[bytes]:
        """The next message of each rank, by rank; waits for all.

        Raises:
            EngineDead: a rank was lost, or all were closed.
        """
        try:
            return [pipe.recv_bytes() for pipe in self._orders]
        except (EOFError, OSError) as error:
            raise self.explained(error) from error

    def serve(self) -> None:
        """From now on nothing takes a rank long."""
        self._serving = True

    def explained(self, error: BaseException) -> EngineDead:
        """End all ranks, out of step since `error`, and say why: their loss, or else the error."""
        if isinstance(error, EngineDead):
            return error
        if isinstance(error, Exception):
            self._gone.wait(HEAR_S)
        self._lose(f"{type(error).__name__}: {error}")
        assert self._lost is not None
        return self._lost

    def close(self) -> None:
        """End all ranks, after what they compute; from any thread, and more than once."""
        with self._lock:
            self._closing = True
            if self._lost is None:
                self._lost = EngineDead("the engine was closed")
        for pipe in self._orders:
            pipe.close()
        self._reap(GRACE_S)
        self._watcher.join(GRACE_S)
        while self._ends:
            self._ends.pop()()

    def kill(self) -> None:
        """End all ranks at once, whatever they do."""
        for process in self._processes:
            process.kill()
        self.close()

    # In the watcher's thread.

    def _watch(self, started: threading.Event) -> None:
        try:
            for rank in range(1, self.count):
                self._start(rank)
        except OSError as error:
            self._lost = EngineDead(f"no process for a rank could be started: {error}")
            self._reap(0.0)
            return
        finally:
            started.set()
        heard_s = dict.fromkeys(self._beats, time.monotonic())
        before_s = time.monotonic()
        while not self._gone.is_set() and not self._closing:
            ready = wait(self._beats, timeout=BEAT_S)
            now_s = time.monotonic()
            if now_s - before_s > 4 * BEAT_S:  # it is us who were stopped
                heard_s = dict.fromkeys(self._beats, now_s)
            before_s = now_s
            for index, pipe in enumerate(self._beats):
                if pipe in ready and not self._closing:
                    heard_s[pipe] = now_s
                    self._hear(index)
            self._miss(heard_s, now_s)
        for process in self._processes:
            process.wait()

    def _start(self, rank: int) -> None:
        ours, theirs = Pipe()
        heard, beats = Pipe(duplex=False)
        with theirs, beats:
            descriptors = (theirs.fileno(), beats.fileno())
            arguments = [json.dumps(sys.path), str(rank), *map(str, descriptors)]
            process = subprocess.Popen(
                [sys.executable, "-P", "-c", f"{CODE}; main()", *arguments],
                stdin=subprocess.DEVNULL,
                pass_fds=descriptors,
            )
        self._processes.append(process)
        self._orders.append(ours)
        self._beats.append(heard)
        with contextlib.suppress(OSError):  # a rank that has ended is heard of
            ours.send_bytes(self._config)

    def _hear(self, index: int) -> None:
        try:
            words = self._beats[index].recv_bytes().decode()
        except (EOFError, OSError):
            words = f"it {self._end_of(index)}"
        if not words:
            return
        # A rank that is killed makes others fail, who may be heard first.
        time.sleep(ECHO_S)
        for other, process in enumerate(self._processes):
            if (process.poll() or 0) < 0:
                index, words = other, f"it {self._end_of(other)}"
        self._lose(f"rank {index + 1} of {self.count}: {words}")

    def _miss(self, heard_s: dict[Connection, float], now_s: float) -> None:
        limit_s = SILENCE_S if self._serving else START_SILENCE_S
        for rank, pipe in enumerate(self._beats, 1):
            if now_s - heard_s[pipe] > limit_s:
                self._lose(
                    f"rank {rank} of {self.count}: nothing was heard of it for {limit_s:g} s"
                )

    def _end_of(self, index: int) -> str:
        try:
            code = self._processes[index].wait(HEAR_S)
        except subprocess.TimeoutExpired:
            return "closed its pipes"
        if code >= 0:
            return f"ended with exit code {code}"
        return f"was killed by {signal.Signals(-code).name}"

    # In any thread.

    def _lose(self, why: str) -> None:
        with self._lock:
            is_first = self._lost is None
            if is_first:
                self._lost = EngineDead(f"a tensor-parallel replica can't go on: {why}")
            listeners = self._listeners.copy()
        for process in self._processes:
            process.kill()
        self._gone.set()
        if is_first and not self._closing:
            logger.error("%s", self._lost)
            for tell in listeners:
                tell(self._lost)  # type: ignore[arg-type]

    def _reap(self, grace_s: float) -> None:
        ends_s = time.monotonic() + grace_s
        for process in self._processes:
            try:
                process.wait(max(0.0, ends_s - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self._gone.set()
