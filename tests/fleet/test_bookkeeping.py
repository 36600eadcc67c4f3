"""A parent's books under any order of messages: late, repeated, of dead epochs. No process runs.

Replicas are played by a model of them, and what lies between is a heap of messages from which
hypothesis chooses.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hfx.clock import VirtualClock
from hfx.config import EngineConfig, FleetConfig, SchedulerConfig
from hfx.cost import named
from hfx.cost.profile import dumps
from hfx.engine.delta import Delta
from hfx.fleet import Fleet, ReplicaSpec, messages
from hfx.fleet import roster as roster_module
from hfx.fleet.messages import Abort, Add, Event, News, Orders, Ready, Start, State, Unbind
from hfx.fleet.replica import host_name
from hfx.request import FinishReason, Objective, Request, Sampling

PROFILE = dumps(named("h100-llama3.1-8b"))
SPENT = (0.0,) * 7
END = messages.End(FinishReason.LENGTH, None, None, 0, SPENT, SPENT, None, False, None)
KINDS = ["ask", "step", "step", "deliver", "deliver", "deliver", "repeat", "die", "tick", "drop"]
KINDS += ["move", "move", "undrain"]


def token(request_id: str, index: int) -> int:
    """What every replica draws for a request's token."""
    return (sum(request_id.encode()) * 31 + index * 7) % 997


@dataclass
class Played:
    """A replica as its messages show it."""

    spec: ReplicaSpec
    hello: messages.Hello
    flights: dict[int, tuple[Add, int]] = field(default_factory=dict)  # and tokens of output
    began: set[int] = field(default_factory=set)
    sent: int = 0
    heard: int = 0
    returned: list[tuple[int, bool]] = field(default_factory=list)

    def obey(self, orders: Orders) -> None:
        if orders.number <= self.heard:
            return
        assert orders.number == self.heard + 1, "orders travel in order"
        self.heard = orders.number
        for order in orders.orders:
            if isinstance(order, Add):
                self.flights[order.number] = (order, len(order.output))
                for index, known in enumerate(order.output):
                    assert known == token(order.request.id, index)
            elif isinstance(order, Abort):
                self.flights.pop(order.number, None)
            elif isinstance(order, Unbind) and order.number in self.flights:
                is_back = order.number not in self.began
                if is_back:
                    del self.flights[order.number]
                self.returned.append((order.number, is_back))

    def step(self, now_s: float, with_state: bool) -> News:
        events = []
        for number, (add, index) in list(self.flights.items()):
            self.began.add(number)
            last = index + 1 == add.request.sampling.max_tokens
            events.append(
                Event(
                    number,
                    index,
                    (token(add.request.id, index),),
                    f"{index},",
                    now_s,
                    Start(now_s, now_s, 0) if index == len(add.output) else None,
                    None,
                    messages.End(
                        FinishReason.LENGTH, None, None, 0, SPENT, SPENT, None, False, None
                    )
                    if last
                    else None,
                )
            )
            if last:
                del self.flights[number]
            else:
                self.flights[number] = (add, index + 1)
        self.sent += 1
        state = State(now_s, len(self.flights), 100, 0, 0, (), (), 1, 0, 0, 0, 0)
        news = News(
            self.spec.epoch,
            self.sent,
            self.heard,
            tuple(events),
            state if with_state else None,
            tuple(self.returned),
        )
        self.returned = []
        return news


class World:
    """Launcher and hub at once: processes that are played, and messages not yet delivered."""

    endpoint = "played"

    def __init__(self) -> None:
        self.played: dict[bytes, Played] = {}
        self.alive: dict[int, bytes] = {}
        self.pending: list[tuple[bytes, bytes]] = []  # to the parent
        self.past: list[tuple[bytes, bytes]] = []
        self.deliver: Callable[[bytes, bytes], None] = lambda *_: None
        self.bound = "played"
        self.busy_s = 0.0
        self.key = ""

    def hub(self, _: str, deliver: Callable[[bytes, bytes], None]) -> "World":
        self.deliver = deliver
        return self

    # As a launcher

    def reachable(self, bound: str) -> str:
        return bound

    def start(self, spec: ReplicaSpec) -> Any:
        address = messages.address(spec.replica_id, spec.epoch, "main")
        who = (spec.epoch, messages.VERSION, spec.replica_id, spec.token, 1)
        hello = messages.Hello(*who, host_name(), 0.0)
        self.played[address] = Played(spec, hello)
        self.alive[spec.replica_id] = address
        self.pending.append((address, messages.encode(hello)))
        alive = True

        def kill() -> None:
            nonlocal alive
            alive = False

        return SimpleNamespace(
            pid=None, exit_fd=None, alive=lambda: alive, kill=kill, why=lambda: "played death",
            waits_for=lambda: "",
            wait=lambda _: True, close=lambda: None,
        )  # fmt: skip

    # As a hub

    def send(self, to: bytes, message: messages.Message) -> bool:
        played = self.played.get(to)
        if played is None or to not in self.alive.values():
            return played is not None
        if isinstance(message, messages.Welcome):
            ready = Ready(message.epoch, 1000, 100, 16, 1000, True, PROFILE, ("preset", "played"))
            self.pending.append((to, messages.encode(ready)))
        elif isinstance(message, Orders):
            played.obey(message)
        return True

    def drain(self) -> None:
        pass

    def close(self) -> None:
        pass

    # What hypothesis does

    def step(self, replica: int, now_s: float, with_state: bool) -> None:
        address = self.alive.get(replica)
        if address is not None:
            news = self.played[address].step(now_s, with_state)
            self.pending.append((address, messages.encode(news)))

    def hand_over(self, place: int) -> None:
        if self.pending:
            sent = self.pending.pop(place % len(self.pending))
            self.past.append(sent)
            self.deliver(*sent)

    def repeat(self, place: int) -> None:
        if self.past:
            self.deliver(*self.past[place % len(self.past)])


ACTIONS = st.lists(st.tuples(st.sampled_from(KINDS), st.integers(0, 50)), max_size=60)
FIXTURE = HealthCheck.function_scoped_fixture  # it is the same for all examples


@settings(max_examples=60, deadline=None, suppress_health_check=[FIXTURE])
@given(actions=ACTIONS)
def test_every_request_gets_every_token_once_whatever_happens_to_messages(
    actions: list[tuple[str, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    world = World()
    monkeypatch.setattr(roster_module, "Hub", world.hub)

    asyncio.run(_run(world, actions))


async def _run(world: World, actions: list[tuple[str, int]]) -> None:
    clock = VirtualClock(100.0)
    engine = EngineConfig(scheduler=SchedulerConfig(max_num_seqs=8))
    words: Any = SimpleNamespace(vocabulary=1000)
    fleet = Fleet(
        FleetConfig(replicas=2, lease_s=1e9, hold_s=1e9),
        engine,
        words,
        launcher=world,
        spec_of=lambda id: ReplicaSpec(replica_id=id),
        clock=clock,
    )
    for replica in range(2):
        fleet._roster.add(replica)
    await _settle(fleet, world, clock)
    reading: dict[str, asyncio.Task[list[Delta]]] = {}
    asked: dict[str, int] = {}
    aborted: set[str] = set()
    for kind, n in actions:
        if kind == "ask":
            id = f"r{len(reading)}"
            tokens = asked[id] = 1 + n % 5
            objective = Objective(ttft_s=1.0 + n) if n % 2 else Objective()
            request = Request(
                id=id,
                prompt_token_ids=(1, 2, 3),
                sampling=Sampling(max_tokens=tokens),
                objective=objective,
            )
            reading[id] = asyncio.ensure_future(_read(fleet.generate(request)))
        elif kind == "step":
            world.step(n % 2, clock.now_s(), n % 3 == 0)
        elif kind == "deliver":
            world.hand_over(n)
        elif kind == "repeat":
            world.repeat(n)
        elif kind == "die":
            _die(fleet, world, n % 2)
        elif kind == "move":
            fleet.drain_replica(n % 2, move=True)
            if n % 3:
                fleet.undrain_replica(n % 2)
        elif kind == "undrain":
            fleet.undrain_replica(n % 2)
        elif kind == "drop" and fleet.desk.flights:
            id = list(fleet.desk.flights)[n % len(fleet.desk.flights)]
            aborted.add(id)
            fleet._abort(id)
        clock.advance(0.01)
        fleet._roster.tick()
        fleet._desk.tick()
        await asyncio.sleep(0)

    for replica in range(2):
        fleet.undrain_replica(replica)
    for _ in range(200):
        await _settle(fleet, world, clock)
        if not fleet.desk.flights:
            break
        for replica in range(2):
            world.step(replica, clock.now_s(), True)
    assert not fleet.desk.flights and not fleet.desk.waiting
    for id, task in reading.items():
        deltas = await task
        got = [t for delta in deltas for t in delta.token_ids]
        text = "".join(delta.text for delta in deltas)
        end = deltas[-1]
        assert got == [token(id, index) for index in range(len(got))]
        assert text == "".join(f"{index}," for index in range(len(got)))
        assert end.output_tokens == len(got)
        if end.finish_reason is FinishReason.LENGTH:
            assert len(got) == asked[id]
        else:
            assert id in aborted or fleet.desk.condemned
    for member in fleet.members:
        assert "breach" not in member.deaths
        if member.standing is not None:
            assert not member.standing.flights
            assert not member.standing.view.running and not member.standing.view.waiting
            assert member.standing.view.free_blocks <= member.standing.view.total_blocks
    fleet.close()


async def _read(stream: Any) -> list[Delta]:
    return [delta async for delta in stream]


def _die(fleet: Fleet, world: World, replica: int) -> None:
    """Its process dies; what it has sent may still come."""
    member = fleet._roster.members[replica]
    if member.life is not None:
        world.alive.pop(replica, None)
        fleet._roster.lose(member, "played death", "exit")


async def _settle(fleet: Fleet, world: World, clock: VirtualClock) -> None:
    """Let everything arrive, and replicas come back."""
    clock.advance(100.0)
    for _ in range(4):
        fleet._roster.tick()
        fleet._desk.tick()
        while world.pending:
            world.hand_over(0)
        clock.advance(1.0)
        await asyncio.sleep(0)
