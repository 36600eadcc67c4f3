"""What snapshots cost a parent: many replicas' real messages, played by one process. Seconds.

The parent is a whole `Fleet` on its real socket; only the replicas' engines are left out, since a
hundred of them would need the processor that is measured.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import time
from typing import Any

import zmq
from prometheus_client import CollectorRegistry

from hfx.config import CacheConfig, EngineConfig, FleetConfig, SchedulerConfig
from hfx.cost import named
from hfx.cost.profile import dumps
from hfx.fleet import Fleet, Handle, LocalLauncher, ReplicaSpec
from hfx.fleet.messages import (
    VERSION,
    Beat,
    Hello,
    News,
    Orders,
    Ready,
    Regime,
    State,
    StepRow,
    address,
    encode,
    to_replica,
)
from hfx.fleet.messages import Add as AddOrder
from hfx.fleet.replica import host_name
from hfx.request import Request, Sampling
from hfx.serve.cost_metrics import CostMetrics
from hfx.serve.metrics import EngineMetrics
from hfx.serve.tier_metrics import TierMetrics

from .fleet_load import PROFILE

REPLICAS = 100
PER_S = 200.0  # snapshots, of all replicas together
STREAMS = 32  # requests of each replica
STEPS = 6  # told by each snapshot


def snapshots(seconds: float) -> dict[str, Any]:
    """The share of a core that a parent of many replicas needs for their snapshots."""
    return asyncio.run(_measured(seconds))


async def _measured(seconds: float) -> dict[str, Any]:
    launcher = _Played()
    engine = EngineConfig(
        device=f"emulated:{PROFILE}",
        cache=CacheConfig(num_blocks_override=4096),
        scheduler=SchedulerConfig(max_num_seqs=256, max_num_batched_tokens=2048),
    )
    config = FleetConfig(replicas=REPLICAS, lease_s=10.0, dispatch="round_robin")
    fleet = await Fleet.launch(
        config, engine, launcher=launcher, spec_of=lambda id: ReplicaSpec(replica_id=id)
    )
    registry = CollectorRegistry()  # the server's own metrics hear of every step
    fleet.add_observer(
        EngineMetrics(registry, model_name="played", stats=fleet.stats, cache={"block_size": "64"})
    )
    assert fleet.cost is not None
    fleet.add_observer(CostMetrics(registry, model_name="played", cost=fleet.cost))
    fleet.add_observer(TierMetrics(registry, model_name="played", tiers=["default"]))
    try:
        sampling = Sampling(max_tokens=1000)
        streams = [
            fleet.generate(Request(id=str(n), prompt_token_ids=(5, 6), sampling=sampling))
            for n in range(REPLICAS * STREAMS)
        ]
        await asyncio.sleep(1.0)
        launcher.pause(True)
        await asyncio.sleep(0.5)
        idle = await _busy(seconds / 2)
        launcher.pause(False)
        await asyncio.sleep(0.5)
        before = launcher.sent()
        busy = await _busy(seconds)
        count = launcher.sent() - before
        assert len(streams) == len(fleet.desk.flights), "a played replica was lost"
    finally:
        fleet.close()
    return {
        "part": "snapshots",
        "replicas": REPLICAS,
        "snapshots_per_s": count / seconds,
        "requests_per_replica": STREAMS,
        "core_fraction_without": idle,
        "core_fraction_with": busy,
        "snapshot_core_fraction": (busy - idle) * PER_S * seconds / count,
    }


async def _busy(seconds: float) -> float:
    """The share of a core that this process uses."""
    began_s, cpu_s = time.monotonic(), time.process_time()
    await asyncio.sleep(seconds)
    return (time.process_time() - cpu_s) / (time.monotonic() - began_s)


class _Nobody:
    """A process that never ends: all replicas are played by another one."""

    pid = exit_fd = None

    def alive(self) -> bool:
        return True

    def why(self) -> str:
        return ""

    def waits_for(self) -> str:
        return ""

    def kill(self) -> None:
        pass

    def wait(self, timeout_s: float) -> bool:
        return True

    def close(self) -> None:
        pass


class _Played(LocalLauncher):
    """Starts one process that plays all replicas."""

    def __init__(self) -> None:
        super().__init__()
        context = multiprocessing.get_context("spawn")
        self._specs: Any = context.Queue()
        self._paused = context.Event()
        self._sent = context.Value("l", 0)
        self._process = context.Process(
            target=_play, args=(self._specs, self._paused, self._sent), daemon=True
        )
        self._process.start()

    def start(self, spec: ReplicaSpec) -> Handle:
        """Let it play one more."""
        self._specs.put(spec.to_json())
        return _Nobody()

    def pause(self, is_paused: bool) -> None:
        """No snapshots for a while, but signs of life."""
        (self._paused.set if is_paused else self._paused.clear)()

    def sent(self) -> int:
        """Snapshots so far."""
        return int(self._sent.value)

    def close(self) -> None:
        """End the players."""
        self._process.kill()
        self._process.join()
        super().close()


def _play(specs: Any, paused: Any, sent: Any) -> None:
    context = zmq.Context[zmq.Socket[bytes]]()
    players = [_Player(context, ReplicaSpec.from_json(specs.get())) for _ in range(REPLICAS)]
    interval_s, next_s, beat_s, turn = 1 / PER_S, time.monotonic(), 0.0, 0
    while True:
        now_s = time.monotonic()
        for player in players:
            player.listen()
        if now_s > beat_s:
            beat_s = now_s + 1.0
            for player in players:
                player.beat()
        if paused.is_set() or now_s < next_s:
            next_s = max(next_s, now_s) if paused.is_set() else next_s
            time.sleep(interval_s / 4)
            continue
        next_s += interval_s
        turn += 1
        sent.value += players[turn % REPLICAS].snapshot(now_s)


class _Player:
    """One replica: its two sockets and its numbers."""

    def __init__(self, context: zmq.Context[zmq.Socket[bytes]], spec: ReplicaSpec) -> None:
        self._spec = spec
        self._main, self._beat = (context.socket(zmq.DEALER) for _ in range(2))
        for socket, channel in ((self._main, "main"), (self._beat, "beat")):
            socket.setsockopt(zmq.ROUTING_ID, address(spec.replica_id, spec.epoch, channel))  # type: ignore[arg-type]
            socket.connect(spec.endpoint)
        who = (spec.epoch, VERSION, spec.replica_id, spec.token, 1)
        self._main.send(encode(Hello(*who, host_name(), time.monotonic())))
        profile = dumps(named(PROFILE))
        self._main.send(
            encode(Ready(spec.epoch, 4096, 4096, 64, 40_000, True, profile, ("preset", PROFILE)))
        )
        self._number = self._heard = 0
        self._numbers: list[int] = []

    def listen(self) -> None:
        """Take note of what was ordered."""
        while self._main.poll(0):
            message = to_replica(self._main.recv())
            if isinstance(message, Orders):
                self._heard = message.number
                self._numbers += [o.number for o in message.orders if isinstance(o, AddOrder)]

    def beat(self) -> None:
        """A sign of life."""
        self._beat.send(
            encode(Beat(self._spec.epoch, 0, self._number, self._heard, self._number, None, 0))
        )

    def snapshot(self, now_s: float) -> int:
        """A snapshot as a busy replica sends it."""
        if not self._numbers:
            return 0
        self._number += 1
        factor = 1.0 + self._number % 7 / 100  # prices move, as they do
        regime = Regime(1000, 0.02, 0.95, factor, 1.1)
        mix = (STREAMS, STREAMS * 500, 1, 512, 100, 1e6, STREAMS * 250_000)
        rows = tuple(StepRow(now_s, 0.012, mix, (0.012, 0.013), 0, 0, 0) for _ in range(STEPS))
        partial = tuple((n, 1) for n in self._numbers[:2])
        queued = tuple(self._numbers[-4:])
        state = State(
            *(now_s, STREAMS - 4, 2000, 100, 0, partial, queued, 10 * self._number, 0, 0, 0, 0),
            *(regime, regime, rows),
        )
        self._main.send(encode(News(self._spec.epoch, self._number, self._heard, (), state)))
        return 1
