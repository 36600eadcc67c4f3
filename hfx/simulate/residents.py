"""Who is at a replica: its queue, those that run, the blocks they hold, and what dispatchers see.

Requests come and go here and blocks go with them; steps are `replica`'s. Tokens, blocks.
"""

from __future__ import annotations

from bisect import insort
from collections.abc import Mapping
from heapq import heappop, heappush
from math import inf

from hfx.cache import Hit
from hfx.cost import CostModel
from hfx.request import FinishReason, Request
from hfx.scheduler import Live, StepPolicy
from hfx.scheduler.dispatch_view import ReplicaView

from .flight import Flight
from .memory import NO_HIT, Memory, Reserved


class Residents:
    """The requests of one replica; `view` is kept true to them between steps."""

    def __init__(self, id: int, policy: StepPolicy, memory: Memory, prices: CostModel) -> None:
        self.policy = policy
        self.memory = memory
        self.flights: dict[str, Flight] = {}
        self.running: list[Live] = []  # both in order of arrival
        self.waiting: list[Live] = []
        self.incoming: list[Live] = []  # on their way here, with blocks reserved
        self.ended: list[Flight] = []  # since somebody last took them from here
        self.hit_tokens = 0
        self._hits: dict[str, Hit] = {}
        self._hard: list[tuple[float, int, Flight]] = []
        self._relegated: frozenset[str] = frozenset()
        self.view = ReplicaView(
            id,
            prices,
            memory.total,
            memory.block_tokens,
            memory.available,
            self.running,
            self.waiting,
            incoming=self.incoming,
            hit_tokens=self._hit_of,
        )
        self._unbound: Mapping[str, Flight] = {}

    @property
    def id(self) -> int:
        return self.view.id

    def share(self, unbound: Mapping[str, Flight]) -> None:
        """Let dispatchers look up here the prefixes of requests that are bound to nobody yet."""
        self._unbound = unbound

    # Comings and goings

    def add(self, flight: Flight) -> None:
        """Let a request wait for its turn."""
        self.flights[flight.live.request.id] = flight
        flight.fate.replica = self.id
        if flight.expires_s < inf:
            heappush(self._hard, (flight.expires_s, flight.number, flight))
        self._wait(flight)

    def remove(self, request_id: str) -> Flight:
        """Take back a request that waits and was never served here."""
        flight = self.flights.pop(request_id)
        assert not flight.is_running, f"{request_id} runs: only what waits can be taken back"
        self.waiting.remove(flight.live)
        self.policy.ended(flight.live.request, flight.live.output_tokens, FinishReason.ABORT)
        self._part(flight)
        return flight

    @property
    def has_work(self) -> bool:
        """Whether there is anything to plan."""
        return bool(self.running or self.waiting)

    def rest(self, flight: Flight) -> None:
        """Plan a request that runs no more; it keeps its blocks, and may go on."""
        live = flight.live
        self.running.remove(live)
        self.policy.ended(live.request, live.output_tokens, FinishReason.ABORT)
        self._owe(flight, 0)
        flight.is_resting = True

    def resume(self, flight: Flight) -> None:
        """Let a request that rests go on."""
        flight.is_resting = False
        self._run(flight)

    def release(self, flight: Flight) -> None:
        """Let a request that rests go, to another replica that has all that it has cached."""
        assert flight.is_resting, f"{flight.live.request.id} is still planned here"
        del self.flights[flight.live.request.id]
        self.memory.leave(flight)
        flight.is_running = flight.is_resting = False
        flight.live.held_blocks = 0
        self.view.free_blocks = self.memory.available

    def reserve(self, reserved: Reserved, tokens: int) -> bool:
        """Keep blocks for so many tokens of a request to come; false where there aren't as many."""
        need = -(-tokens // self.memory.block_tokens) - reserved.blocks
        if need > self.memory.available:
            return False
        if need > 0:
            self.memory.reserve(reserved, need)
            self.view.free_blocks = self.memory.available
        return True

    def unreserve(self, reserved: Reserved) -> None:
        """It doesn't come after all."""
        self.memory.unreserve(reserved)
        self.view.free_blocks = self.memory.available

    def adopt(self, flight: Flight, reserved: Reserved) -> None:
        """Let a request run here that has run elsewhere, with what it has cached."""
        self.flights[flight.live.request.id] = flight
        flight.fate.replica = self.id
        flight.is_running = True
        if flight.expires_s < inf:
            heappush(self._hard, (flight.expires_s, flight.number, flight))
        self.memory.settle(flight, reserved)
        flight.live.held_blocks = reserved.blocks
        self.memory.keep(flight)
        self._run(flight)

    def evacuate(self) -> list[Flight]:
        """Take everybody out, as when it dies; what was computed is lost, but no output token."""
        flights = sorted(self.flights.values(), key=lambda flight: flight.order)
        for flight in flights:
            if flight.is_running:
                self._leave(flight)
                flight.live.preemptions += 1
            self._part(flight)
        self.running.clear()
        self.waiting.clear()
        self.flights.clear()
        self._hard.clear()
        return flights

    # What policies and dispatchers ask

    def _hit_of(self, request: Request) -> int:
        flight = self._unbound.get(request.id)
        if flight is None or not flight.job.hash_ids:
            return 0
        hit = self.memory.hit(flight)
        return len(hit.blocks) * self.memory.block_tokens

    def _refresh(self, live: Live) -> None:
        flight = self.flights[live.request.id]
        if flight.is_running:
            live.shared_blocks = self.memory.shared(flight)
            return
        hit = self._hit(flight)
        live.held_blocks = len(hit.blocks)
        live.cached_tokens = live.held_blocks * self.memory.block_tokens
        live.idle_hit_blocks = hit.idle

    def _hit(self, flight: Flight) -> Hit:
        if not flight.job.hash_ids:
            return NO_HIT
        id = flight.live.request.id
        hit = self._hits.get(id)
        if hit is None:
            hit = self._hits[id] = self.memory.hit(flight)
        return hit

    def _enter(self, flight: Flight) -> None:
        live = flight.live
        hit = self._hit(flight)
        self.memory.start(flight, hit)
        live.held_blocks, live.idle_hit_blocks = len(hit.blocks), 0
        live.cached_tokens = live.held_blocks * self.memory.block_tokens
        self.hit_tokens += live.cached_tokens
        flight.is_running = True
        self.waiting.remove(live)
        self._insert(self.running, flight)
        if hit.blocks:
            self._owe(flight, live.known_tokens - live.cached_tokens)

    def _run(self, flight: Flight) -> None:
        self._insert(self.running, flight)
        if not flight.live.is_decoding:
            self._owe(flight, flight.live.wanted_tokens)

    def _wait(self, flight: Flight) -> None:
        self._owe(flight, flight.live.known_tokens)
        self._insert(self.waiting, flight)

    def _insert(self, lives: list[Live], flight: Flight) -> None:
        """Keep a list in order of arrival, equal arrivals in order of number."""
        if not lives or lives[-1].arrival_s < flight.live.arrival_s:
            lives.append(flight.live)
        else:
            insort(lives, flight.live, key=lambda live: self.flights[live.request.id].order)

    def _part(self, flight: Flight) -> None:
        """Forget what this replica counted and its cache promised to a request that goes."""
        live = flight.live
        live.cached_tokens = live.held_blocks = live.idle_hit_blocks = 0
        self._owe(flight, 0)

    def _owe(self, flight: Flight, tokens: int) -> None:
        self.view.prompt_tokens += tokens - flight.owed
        flight.owed = tokens

    def _preempt(self, flight: Flight) -> None:
        self.running.remove(flight.live)
        self._leave(flight)
        flight.live.preemptions += 1
        self._wait(flight)

    def _leave(self, flight: Flight) -> None:
        live = flight.live
        self.memory.leave(flight)
        live.cached_tokens = live.held_blocks = 0
        flight.is_running = flight.is_resting = False

    def _relegate(self, ids: frozenset[str]) -> None:
        if ids is not self._relegated:
            for id in ids - self._relegated:
                self.flights[id].fate.was_relegated = True
            self._relegated = ids

    def _expire(self, now_s: float) -> None:
        while self._hard and self._hard[0][0] < now_s:
            flight = heappop(self._hard)[2]
            if self.flights.get(flight.live.request.id) is flight:
                self._end(flight, FinishReason.EXPIRED)

    def _end(self, flight: Flight, reason: FinishReason) -> None:
        live, fate = flight.live, flight.fate
        if flight.is_running:
            if not flight.is_resting:
                self.running.remove(live)
            self._leave(flight)
        else:
            self.waiting.remove(live)
        self._owe(flight, 0)
        del self.flights[live.request.id]
        close(flight, reason)
        self.policy.ended(live.request, live.output_tokens, reason)
        self.ended.append(flight)
        assert fate.reason is reason


def close(flight: Flight, reason: FinishReason) -> None:
    """Write down what became of a request."""
    live, fate = flight.live, flight.fate
    fate.first_s, fate.last_s = live.first_token_s, live.last_token_s
    fate.output_tokens = live.output_tokens
    fate.preemptions = live.preemptions
    fate.reason = reason
