"""Requests that move with their keys and values from one replica to another: in stages, over links.

A live migration copies what is cached while the request decodes, then what was appended meanwhile,
until so little is left that the request rests while it follows. A hand-off rests from the start.
Blocks are reserved at the target from the start and kept at the source to the end, so that whatever
fails, the request is whole at one of the two. Seconds, tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from hfx.scheduler.dispatch_view import Migrate

from .flight import Flight
from .links import Links, Transfer
from .memory import Reserved
from .replica import Replica

STALL_TOKENS = 64  # appended tokens that are worth no further stage: less than an iteration's time
MOST_STAGES = 8  # that are copied while the request decodes


@dataclass(slots=True, eq=False)
class Move:
    """One request on its way. `sent_tokens` are at the target; between two stages there is no
    transfer."""

    flight: Flight
    source: Replica
    target: Replica
    is_live: bool
    preemptions: int
    reserved: Reserved = field(default_factory=Reserved)
    sent_tokens: int = 0
    sending_tokens: int = 0
    stages: int = 0
    transfer: Transfer | None = None

    @property
    def is_sound(self) -> bool:
        """Whether the source still has what was sent."""
        flight = self.flight
        return (
            self.source.flights.get(flight.live.request.id) is flight
            and flight.is_running
            and flight.live.preemptions == self.preemptions
        )


class Moves:
    """All requests on their way.

    `still` brings a replica's requests up to date and lets it stop after its present step; `wake`
    is told of replicas that may have something to plan.
    """

    def __init__(
        self,
        links: Links,
        still: Callable[[Replica, float], None],
        wake: Callable[[Replica], None],
    ) -> None:
        self.links = links
        self.done = 0
        self.given_up = 0
        self.moved_bytes = 0.0
        self._still = still
        self._wake = wake
        self._moves: dict[str, Move] = {}
        self._at: dict[int, dict[str, Move]] = {}  # of each replica, at either end
        self._transfers: dict[int, Move] = {}

    def begin(self, order: Migrate, source: Replica, target: Replica, now_s: float) -> None:
        """Set out, if the request runs at the source and the target has room for it."""
        flight = source.flights.get(order.request_id)
        if flight is None or not flight.is_running or order.request_id in self._moves:
            return
        if source is target:
            return
        self._still(source, now_s)
        self._still(target, now_s)
        live = flight.live
        move = Move(flight, source, target, order.keeps_decoding, live.preemptions)
        if not target.reserve(move.reserved, live.known_tokens):
            return
        self._moves[order.request_id] = move
        for replica in (source, target):
            self._at.setdefault(replica.id, {})[order.request_id] = move
        target.incoming.append(live)
        self._next_stage(move, now_s)

    def ended(self, transfer: Transfer, now_s: float) -> bool:
        """A transfer has arrived; false if it was none of a request."""
        move = self._transfers.pop(transfer.number, None)
        if move is None:
            return False
        move.transfer = None
        move.sent_tokens += move.sending_tokens
        self.moved_bytes += transfer.nbytes
        if not move.is_sound:
            self._give_up(move, now_s)
            return True
        self._still(move.source, now_s)
        if move.flight.is_resting:
            self._switch(move, now_s)
        else:
            self._next_stage(move, now_s)
        return True

    def stepped(self, replica: Replica, now_s: float) -> None:
        """A replica's step has ended, or its next one is planned: go on, or give up."""
        for move in self._of(replica) if self._at else ():
            if not move.is_sound:
                self._give_up(move, now_s)
            elif move.transfer is None and move.source is replica:
                self._next_stage(move, now_s)

    def lost(self, replica: Replica, now_s: float) -> None:
        """A replica is gone: what was on its way to or from it stays where it is."""
        for move in self._of(replica):
            self._give_up(move, now_s)

    def turn_back(self, replica: Replica, now_s: float) -> None:
        """A replica takes no more work: what is on its way to it stays where it is."""
        for move in self._of(replica):
            if move.target is replica:
                self._give_up(move, now_s)

    def _of(self, replica: Replica) -> Iterable[Move]:
        row = self._at.get(replica.id)
        return list(row.values()) if row else ()

    def _next_stage(self, move: Move, now_s: float) -> None:
        live = move.flight.live
        left = live.cached_tokens - move.sent_tokens
        if move.is_live and left > STALL_TOKENS and move.stages < MOST_STAGES:
            self._send(move, left, now_s)
        elif not move.source.computes(move.flight):
            self._still(move.target, now_s)
            if not move.target.reserve(move.reserved, live.known_tokens):
                self._give_up(move, now_s)
                return
            move.source.rest(move.flight)
            self._send(move, left, now_s)

    def _send(self, move: Move, tokens: int, now_s: float) -> None:
        move.stages += 1
        move.sending_tokens = tokens
        nbytes = tokens * move.source.view.cost.kv_bytes_per_token
        move.transfer = self.links.start(move.source.id, move.target.id, nbytes, now_s)
        self._transfers[move.transfer.number] = move

    def _switch(self, move: Move, now_s: float) -> None:
        self._still(move.target, now_s)
        self._forget(move)
        move.source.release(move.flight)
        move.target.adopt(move.flight, move.reserved)
        self.done += 1
        self._wake(move.source)
        self._wake(move.target)

    def _give_up(self, move: Move, now_s: float) -> None:
        self._forget(move)
        self.given_up += 1
        if move.transfer is not None:
            del self._transfers[move.transfer.number]
            self.links.cancel(move.transfer, now_s)
        move.target.unreserve(move.reserved)
        if move.flight.is_resting and move.is_sound:
            self._still(move.source, now_s)
            move.source.resume(move.flight)
        self._wake(move.source)
        self._wake(move.target)

    def _forget(self, move: Move) -> None:
        id = move.flight.live.request.id
        del self._moves[id]
        for replica in (move.source, move.target):
            row = self._at[replica.id]
            del row[id]
            if not row:
                del self._at[replica.id]
        move.target.incoming.remove(move.flight.live)
