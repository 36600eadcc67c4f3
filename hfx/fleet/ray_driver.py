"""The process that owns a parent's Ray actors: `python -m hfx.fleet.ray_driver ADDRESS`.

It is a process of its own because Ray ends one that has lost its cluster, and runs threads in it:
the parent goes on without either. Orders come in on standard input, reports go out on standard
output, a line each (`ray_lines`); once the input closes, all actors are ended. Seconds.
"""

from __future__ import annotations

import logging
import os
import queue
import sys
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial
from typing import Any

import ray
from ray.exceptions import RayActorError, RayError
from ray.util.placement_group import placement_group, placement_group_table, remove_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from .ray_actor import Keeper
from .ray_lines import (
    Begin,
    Broken,
    Connected,
    Ended,
    Order,
    Placed,
    Report,
    Waits,
    encode,
    to_order,
)
from .ray_place import bundle_of, lacking
from .spec import ReplicaSpec

LOOK_S = 1.0  # between two looks at what waits or should have ended
KILL_S = 2.0  # for an actor to end its process; then Ray ends the actor
NODE_DIED = "its node has died"
CLOSE_S = 10.0  # for Ray to end all of them once the parent is gone


@dataclass(slots=True, eq=False)
class Case:
    """One replica's process, from its order to its end."""

    key: int
    bundle: Mapping[str, float]
    group: Any  # of ray.util.placement_group
    actor: Any  # a handle of a remote Keeper
    is_placed: bool = False
    node: str = ""  # Ray's id of it
    killed_s: float | None = None
    said: str = ""


class Owner:
    """All of them. Everything runs in the thread of `serve`; others only leave work for it."""

    def __init__(self, say: Callable[[Report], None]) -> None:
        self._say = say
        self._cases: dict[int, Case] = {}
        self._work: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._looked_s = 0.0

    def obey_lines_of(self, fd: int) -> None:
        """Take orders from a descriptor until it closes; then `serve` ends, or else the process."""
        with os.fdopen(fd, "rb") as lines:
            for line in lines:
                self._work.put(partial(self._obey, to_order(line)))
        self._work.put(None)
        time.sleep(CLOSE_S)
        os._exit(1)

    def serve(self) -> None:
        """Until there is no parent."""
        while True:
            try:
                work = self._work.get(timeout=LOOK_S if self._is_looking else None)
            except queue.Empty:
                self._look()
                continue
            if work is None:
                break
            work()
        for case in self._cases.values():
            self._release(case)

    def _obey(self, order: Order) -> None:
        if isinstance(order, Begin):
            self._begin(order.key, order.spec)
        elif order.key in self._cases:
            self._kill(self._cases[order.key])

    def _begin(self, key: int, spec: ReplicaSpec) -> None:
        """One bundle for the whole replica: its ranks are processes of one node."""
        bundle = bundle_of(spec.resources)
        group = placement_group([bundle], strategy="STRICT_PACK", name=f"hfx {spec.name}")
        others = {name: n for name, n in bundle.items() if name not in ("CPU", "GPU")}
        actor = (
            ray.remote(Keeper)
            .options(
                num_cpus=bundle["CPU"],
                num_gpus=bundle.get("GPU", 0),
                resources=others,
                max_restarts=0,  # the parent restarts replicas, with back-off and a new token
                max_concurrency=4,
                scheduling_strategy=PlacementGroupSchedulingStrategy(group),
            )
            .remote(spec.name)
        )
        self._cases[key] = Case(key, bundle, group, actor)
        self._then(actor.run.remote(spec.to_json()), self._ended, key)
        self._then(actor.begun.remote(), self._placed, key)

    def _then(self, ref: Any, do: Callable[[int, Future[Any]], None], key: int) -> None:
        """Do something in the thread of `serve` once a call has come back."""
        ref.future().add_done_callback(lambda done: self._work.put(partial(do, key, done)))

    def _placed(self, key: int, done: Future[tuple[str, int]]) -> None:
        if key in self._cases and done.exception() is None:
            case = self._cases[key]
            case.is_placed = True
            case.node = placement_group_table(case.group)["bundles_to_node_id"][0]
            self._say(Placed(key, *done.result()))

    def _ended(self, key: int, done: Future[str]) -> None:
        if key not in self._cases:
            return
        error = done.exception()
        why = done.result() if error is None else reason_of(error)
        ended = [self._cases[key]]
        if why == NODE_DIED and ended[0].node:
            ended = [case for case in self._cases.values() if case.node == ended[0].node]
        self._say(Ended(tuple(case.key for case in ended), why))
        for case in ended:
            del self._cases[case.key]
            self._release(case)

    def _kill(self, case: Case) -> None:
        if case.is_placed:
            case.killed_s = time.monotonic()
            case.actor.kill.remote()
        else:
            del self._cases[case.key]
            self._release(case)
            self._say(Ended((case.key,), "killed before it had begun"))

    def _release(self, case: Case) -> None:
        """Nothing of it is left in the cluster."""
        ray.kill(case.actor)
        remove_placement_group(case.group)

    @property
    def _is_looking(self) -> bool:
        return any(not c.is_placed or c.killed_s is not None for c in self._cases.values())

    def _look(self) -> None:
        for case in list(self._cases.values()):
            if not case.is_placed:
                self._explain(case)
            elif case.killed_s is not None and time.monotonic() - case.killed_s > KILL_S:
                case.killed_s = None
                ray.kill(case.actor)  # its node does it, also to a stopped one

    def _explain(self, case: Case) -> None:
        """Say what a replica waits for."""
        why = "Ray to start its actor"
        if placement_group_table(case.group)["state"] != "CREATED":
            nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
            why = lacking(case.bundle, nodes)
        if why != case.said:
            case.said = why
            self._say(Waits(case.key, why))


def reason_of(error: BaseException) -> str:
    """How Ray says that an actor ended, in a few words."""
    text = " ".join(str(error).split())
    if isinstance(error, RayActorError):
        if "node has died" in text or "node died" in text:
            return NODE_DIED
        _, _, cause = text.rpartition("exit detail: ")
        return f"its actor has died: {cause.split('. ')[0][:200]}"
    return f"{type(error).__name__}: {text[:300]}"


def last_line(error: BaseException) -> str:
    """What an error comes to: Ray's texts may hold whole tracebacks."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return " ".join(lines[-1].split())[:500]


def connect(address: str) -> Connected:
    """Join a cluster as one who starts actors; `none` starts one on this host.

    Raises:
        ConnectionError, RuntimeError, ValueError, RayError: there is none to join.
    """
    ray.init(
        address="local" if address == "none" else address,
        include_dashboard=False if address == "none" else None,
        logging_level=logging.WARNING,
    )
    return Connected(ray.util.get_node_ip_address(), ray.cluster_resources())


def main() -> None:
    """The program."""
    out = os.dup(1)
    os.dup2(2, 1)  # what libraries print is no report

    def say(report: Report) -> None:
        os.write(out, encode(report))

    owner = Owner(say)
    threading.Thread(target=owner.obey_lines_of, args=(0,), daemon=True).start()
    try:
        say(connect(sys.argv[1]))
        owner.serve()
    except (ConnectionError, RuntimeError, ValueError, RayError) as error:
        say(Broken(last_line(error)))
        sys.exit(1)
    finally:
        ray.shutdown()


if __name__ == "__main__":
    main()
