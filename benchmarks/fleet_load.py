"""Traffic against a server from a process of its own, so that the server's processor time is its
own; and what the server's processes used meanwhile. Seconds, tokens."""

from __future__ import annotations

import asyncio
import json
import os
import re
import sys
import time
import urllib.request
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

from hfx.bench.client import Target
from hfx.bench.load import Run, open_session, run_load
from hfx.bench.server import models
from hfx.bench.workload import Prompt

from .process import ServerProcess, free_port, serving

PROFILE = "rtxpro6000-llama3.1-8b"
START_S = 180.0
_TICK_S = 1 / os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class Traffic:
    """Prompts and when to send them."""

    prompts: Sequence[Prompt]
    arrivals_s: Sequence[float]


@contextmanager
def fleet(replicas: int, *arguments: str, in_process: bool = False) -> Iterator[ServerProcess]:
    """A real server over emulated replicas, all of them ready."""
    port = free_port()
    command = [sys.executable, "-m", "hfx.serve", "--port", str(port), "--log-level", "warning"]
    command += ["--device", f"emulated:{PROFILE}"]
    if not in_process:
        command += ["--replicas", str(replicas), "--launcher", "local"]
    with serving([*command, *arguments], port) as server:
        _wait(server, 0 if in_process else replicas)
        yield server


def health(server: ServerProcess) -> dict[str, int]:
    """How many replicas are in each phase; empty where the engine is in the server's process."""
    with urllib.request.urlopen(f"{server.base_url}/health", timeout=10) as answer:
        found: dict[str, int] = json.load(answer).get("replicas", {})
    return found


def metric(server: ServerProcess, name: str) -> float:
    """The sum of one of its metrics over all labels; 0 where there is none."""
    with urllib.request.urlopen(f"{server.base_url}/metrics", timeout=10) as answer:
        text = answer.read().decode()
    return sum(map(float, re.findall(rf"^hfx:{name}(?:{{.*}})? (\S+)$", text, re.M)))


def replica_pids(server: ServerProcess) -> list[int]:
    """The processes of its replicas."""
    return [pid for pid in _children(server.process.pid) if _is_replica(pid)]


def processor_s(pid: int) -> float:
    """Processor time that a process has used, its threads included and its children not."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) * _TICK_S


class Load:
    """A process that sends traffic; one for a whole benchmark, since its start takes a while."""

    def __init__(self) -> None:
        self._pool = ProcessPoolExecutor(1, mp_context=get_context("spawn"))

    def run(self, server: ServerProcess, traffic: Traffic) -> Run:
        """Send it and wait for the answers."""
        return self.start(server, traffic).result()  # type: ignore[no-any-return]

    def start(self, server: ServerProcess, traffic: Traffic):  # type: ignore[no-untyped-def]
        """A future of the same."""
        return self._pool.submit(_sent, server.base_url, traffic)

    def close(self) -> None:
        """End the process."""
        self._pool.shutdown()


def _sent(base_url: str, traffic: Traffic) -> Run:
    return asyncio.run(_send(base_url, traffic))


async def _send(base_url: str, traffic: Traffic) -> Run:
    async with open_session() as session:
        model = (await models(session, base_url, {}, 0.0)).ids[0]
        target = Target(base_url=base_url, model=model, ignore_eos=True)
        return await run_load(session, target, traffic.prompts, arrivals_s=traffic.arrivals_s)


def _wait(server: ServerProcess, replicas: int) -> None:
    ends_s = time.monotonic() + START_S
    while True:
        server.check()
        try:
            with urllib.request.urlopen(f"{server.base_url}/ready", timeout=5):
                pass
            if health(server).get("ready", 0) >= replicas:
                return
        except OSError:
            pass
        if time.monotonic() > ends_s:
            raise RuntimeError(f"the server is not ready {START_S:g} s after its start")
        time.sleep(0.1)


def _children(pid: int) -> list[int]:
    found = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        found += [int(child) for child in (task / "children").read_text().split()]
    return found


def _is_replica(pid: int) -> bool:
    try:
        return b"hfx.fleet.replica" in Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False
