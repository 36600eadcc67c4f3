"""Carries out what the dispatcher decides: who serves which request, and what becomes of it.

For the event loop's thread; seconds on the parent's clock. Every live request is in exactly one
place: held while nobody is ready, in the dispatcher's queue, on probation, or at one replica.

Of a dead replica's requests any may be the cause. So each is on probation until its next token: no
replica has two of those at a time, and the one whose replicas die twice is known from the others.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from heapq import heapify, heappop, heappush
from math import inf
from typing import Protocol

from hfx.clock import Clock
from hfx.engine.delta import Delta
from hfx.engine.errors import EngineNotReady, Infeasible
from hfx.request import FinishReason
from hfx.scheduler.dispatch_view import Bind, Decision, Dispatcher, Flip, Refuse, Relegate
from hfx.scheduler.dispatch_view import Unbind as GiveBack

from .flight import Flight
from .member import Life, Member
from .messages import Abort, Event, News, Order, Unbind

logger = logging.getLogger(__name__)

STRIKES = 2.0  # deaths of replicas after which a request is held to have caused them
UNSEEN = 0.5  # of a strike, where nobody knows whether the replica had begun it
MOST_DEATHS = 8  # that a request may see although it went on in between
AHEAD_S = 0.004  # before a step's end: for a decision, its way to the replica, and errors of both
AGAIN_S = 0.25  # between two looks at a deadline that its replica should have kept
MOST_ROUNDS = 8  # of asking a dispatcher again because it named requests that are gone
SPARE = 64  # deadlines of requests that have ended, before they are looked for
RECENT = 32  # ends by which the pace of ends is told


class Timer(Protocol):
    """What `later` gives: a call that can be taken back."""

    def cancel(self) -> object: ...


class Desk:
    """All live requests.

    `flush` sends what members were ordered; `ended` hears of every end, and `breach` of a replica
    whose news contradicts what it said before. `make_dispatcher` is asked when the first member
    joins, `retry_s` how soon one may be ready when none is.
    """

    def __init__(
        self,
        clock: Clock,
        *,
        hold_s: float,
        flush: Callable[[Member], None],
        ended: Callable[[Flight, Delta], None],
        breach: Callable[[Member, str], None],
        make_dispatcher: Callable[[Member], Dispatcher],
        retry_s: Callable[[], float],
        later: Callable[[float, Callable[[], None]], Timer],
    ) -> None:
        self.flights: dict[str, Flight] = {}
        self.resumed = self.refused = self.condemned = self.stolen = 0
        self._clock = clock
        self._hold_s = hold_s
        self._flush = flush
        self._ended = ended
        self._breach = breach
        self._dispatcher: Dispatcher | None = None
        self._ready: dict[int, Member] = {}
        self._unbound: dict[str, Flight] = {}
        self._held: dict[str, tuple[Flight, float]] = {}
        self._probation: dict[str, Flight] = {}  # those that wait for a replica to themselves
        self._probed: dict[int, Flight] = {}  # by replica
        self._expiries: list[tuple[float, int, Flight]] = []
        self._touched: dict[int, Member] = {}
        self._ends_s: deque[float] = deque(maxlen=RECENT)
        self._make_dispatcher = make_dispatcher
        self._retry_s = retry_s
        self._later = later
        self._ahead: dict[int, Timer | None] = {}  # by replica: to ask before its step ends
        self._is_asked_again = False

    # What it knows

    @property
    def dispatcher(self) -> Dispatcher | None:
        """Who decides; None until the first replica is ready."""
        return self._dispatcher

    @property
    def has_queue(self) -> bool:
        """Whether requests wait to be bound to a replica."""
        return self._dispatcher is not None and self._dispatcher.has_queue

    @property
    def waiting(self) -> int:
        """Requests that no replica has."""
        return len(self._unbound) + len(self._held) + len(self._probation)

    @property
    def held(self) -> int:
        """Requests that wait for a replica to become ready."""
        return len(self._held)

    @property
    def unbound(self) -> Iterable[Flight]:
        """Those in the dispatcher's queue."""
        return self._unbound.values()

    @property
    def ready(self) -> Sequence[Member]:
        """Members that requests are bound to."""
        return list(self._ready.values())

    @property
    def end_every_s(self) -> float | None:
        """How long it takes until another request ends, of late; None before there were some."""
        times = self._ends_s
        return (times[-1] - times[0]) / (len(times) - 1) if len(times) > 1 else None

    # Requests

    def take(self, flight: Flight) -> None:
        """A new request."""
        self.flights[flight.request_id] = flight
        self._watch(flight)
        self._arrive(flight)
        self._send()

    def drop(self, flight: Flight, reason: FinishReason, error: str | None = None) -> None:
        """End a request wherever it is."""
        if flight.last is None:
            self._leave_member(flight)
            self._finish(flight, flight.finish_here(reason, error))
            self._send()

    def forget(self, flight: Flight, error: Exception) -> None:
        """Answer a request with an error instead of an end."""
        self._leave_member(flight)
        flight.fail(error)
        self._close(flight, FinishReason.ABORT)

    def _leave_member(self, flight: Flight) -> None:
        member = flight.member
        self._end_probation(flight)
        if member is not None and member.standing is not None:
            member.standing.release(flight)
            self._order(member, Abort(flight.number))
        flight.member = None

    def _arrive(self, flight: Flight) -> None:
        flight.member, flight.goes_to = None, None
        flight.is_leaving = flight.is_evicted = False
        if not self._ready or self._dispatcher is None:
            self._held[flight.request_id] = (flight, self._clock.now_s())
            return
        if flight.strikes:
            self._probation[flight.request_id] = flight
            return
        self._unbound[flight.request_id] = flight
        self._carry_out(self._dispatcher.arrived(flight.live, self._clock.now_s()))
        if flight.request_id in self._unbound:
            for member in self._ready.values():
                self._look_ahead(member)

    def _probe(self) -> None:
        """Give those on probation to replicas that have none, the first come first."""
        while self._probation and len(self._probed) < len(self._ready):
            flight = next(iter(self._probation.values()))
            free = [m for m in self._ready.values() if m.id not in self._probed]
            other = [m for m in free if m.id != flight.failed_at]
            if not other and len(self._ready) > 1:
                return  # it failed on the one that is free, and others will be
            member = min(other or free, key=_load)
            del self._probation[flight.request_id]
            self._probed[member.id] = flight
            self._bind(flight, member.id)

    def _end_probation(self, flight: Flight) -> None:
        member = flight.member
        if member is not None and self._probed.get(member.id) is flight:
            del self._probed[member.id]

    def _finish(self, flight: Flight, last: Delta) -> None:
        assert last.finish_reason is not None
        self._ends_s.append(self._clock.now_s())
        self._close(flight, last.finish_reason)
        self._ended(flight, last)

    def _close(self, flight: Flight, reason: FinishReason) -> None:
        self.flights.pop(flight.request_id, None)
        self._unbound.pop(flight.request_id, None)
        self._held.pop(flight.request_id, None)
        self._probation.pop(flight.request_id, None)
        if self._dispatcher is not None:
            self._dispatcher.ended(flight.request, flight.live.output_tokens, reason)

    # Replicas

    def join(self, member: Member) -> None:
        """A member takes requests from now on."""
        assert member.standing is not None
        if self._dispatcher is None:
            self._dispatcher = self._make_dispatcher(member)
        self._ready[member.id] = member
        self._dispatcher.joined(member.standing.view)
        held, self._held = self._held, {}
        for flight, _ in held.values():
            self._arrive(flight)
        self._stepped(member.id)
        self._send()

    def leave(self, member: Member) -> None:
        """A member takes none any more; what it has begun it goes on with, the rest moves."""
        if self._ready.pop(member.id, None) is None:
            return
        assert self._dispatcher is not None and member.standing is not None
        self._dispatcher.left(member.id)
        self._probed.pop(member.id, None)
        self._ahead.pop(member.id, None)
        if not self._ready:
            self._hold_queue()
        for flight in member.standing.flights.values():
            if flight.is_leaving:
                flight.is_evicted |= self._dispatcher is None  # whose queue it was in
            elif not flight.output:
                flight.is_evicted = True
                self._ask_back(flight, member)
        self._send()

    def shun(self, member: Member) -> None:
        """Bind nothing more to a member that will be lost."""
        self._probed.pop(member.id, None)
        self._ahead.pop(member.id, None)
        if self._ready.pop(member.id, None) is not None:
            assert self._dispatcher is not None
            self._dispatcher.left(member.id)
            if not self._ready:
                self._hold_queue()

    def lost(self, member: Member, life: Life, *, is_death: bool) -> None:
        """A member's process is gone: what it had goes on elsewhere, from what was told."""
        assert life.standing is not None
        flights, heard = life.standing.flights.values(), life.heard
        queued = set() if life.state is None else set(life.state.queued)
        self.shun(member)
        for flight in sorted(flights, key=lambda one: (one.live.arrival_s, one.number)):
            live = flight.live
            live.cached_tokens = live.held_blocks = 0
            flight.is_running = False
            is_blamed = is_death and life.could_obey(flight.order)
            if is_blamed and flight.number not in queued:
                self._strike(flight, member, 1.0 if flight.order <= heard else UNSEEN)
            if is_blamed and (flight.strikes >= STRIKES or flight.deaths >= MOST_DEATHS):
                self._condemn(flight, member.last_death)
                continue
            flight.deaths += is_blamed
            self._resume(flight)
        self._send()

    def move(self, member: Member) -> None:
        """Have others go on with what a drained member has begun; where there are none, it does."""
        standing = member.standing
        if standing is None or member.id in self._ready or not self._ready:
            return
        for flight in sorted(standing.flights.values(), key=lambda one: one.number):
            self._leave_member(flight)
            self._resume(flight)
        self._send()

    def _resume(self, flight: Flight) -> None:
        """Let it go on from the tokens that were told."""
        flight.resumptions += 1
        self.resumed += 1
        self._arrive(flight)

    @staticmethod
    def _strike(flight: Flight, member: Member, strike: float) -> None:
        """Its replica died or failed. Only times in a row count, without a token in between."""
        flight.strikes += strike
        flight.failed_at = member.id

    def _condemn(self, flight: Flight, why: str) -> None:
        self.condemned += 1
        logger.error("request %s is given up: replicas die computing it", flight.request_id)
        flight.member = None
        reason = f"every replica that computed this request has died of it; the last: {why}"
        self._finish(flight, flight.finish_here(FinishReason.ERROR, reason))

    def _hold_queue(self) -> None:
        """The last replica is gone: the queue waits for the next one."""
        now_s = self._clock.now_s()
        for request_id, flight in self._unbound.items():
            self._held[request_id] = (flight, now_s)
        for request_id, flight in self._probation.items():
            self._held[request_id] = (flight, now_s)
        self._unbound, self._probation = {}, {}
        self._dispatcher = None  # its queue is no longer; lengths are learned soon enough

    # News

    def hear(self, member: Member, news: News) -> None:
        """Take what a member tells."""
        standing = member.standing
        assert standing is not None
        last_s = -inf
        for event in news.events:
            flight = standing.flights.get(event.number)
            if flight is None or news.heard < flight.order:
                continue  # it was aborted, or moved away and back, and this was on its way
            is_plain = event.start is None and event.end is None and not flight.strikes
            if not (flight.hear(event) if is_plain else self._take(member, flight, event)):
                self._breach(member, f"what it says of request {flight.request_id} does not fit")
                return
            if event.last_s is not None and event.last_s > last_s:
                last_s = event.last_s
        if last_s > -inf:
            standing.stepped(last_s)
        if news.state is not None:
            standing.apply(news.state, news.heard)
        for number, is_back in news.returned:
            self._returned(member, number, is_back)
        is_due, timer = member.id not in self._ahead, self._ahead.pop(member.id, None)
        if timer is not None:
            timer.cancel()
        if is_due or timer is not None:  # nobody has asked since its last step ended
            self._stepped(member.id)
        self._look_ahead(member)
        self._send()

    def _look_ahead(self, member: Member) -> None:
        """Ask what a replica should get next a little before its step ends by its prices.

        What is bound then is in its next plan, and not in the one after that.
        """
        standing = member.standing
        if not self.has_queue or standing is None or member.id in self._ahead:
            return
        now_s = self._clock.now_s()
        standing.advance(now_s)
        wait_s = standing.view.boundary_s - AHEAD_S - now_s
        if wait_s > 0:
            self._ahead[member.id] = self._later(wait_s, partial(self._ask_ahead, member))

    def _ask_ahead(self, member: Member) -> None:
        if self._ready.get(member.id) is member:
            self._ahead[member.id] = None
            self._stepped(member.id)
            self._send()

    def _take(self, member: Member, flight: Flight, event: Event) -> bool:
        """One request's news; false where it contradicts what came before."""
        standing = member.standing
        assert standing is not None
        end = event.end
        fails = end is not None and end.reason is FinishReason.ERROR
        if fails:
            assert end is not None
            event.end = None
        if not flight.hear(event):
            return False
        if event.start is not None:
            standing.began(flight, event.start.hit_tokens)
        if event.tokens:
            standing.decodes(flight)
            if flight.strikes:  # it was not the cause
                flight.strikes = 0.0
                self._end_probation(flight)
        if end is None:
            return True
        standing.release(flight)
        self._end_probation(flight)
        flight.member = None
        if fails:
            self._strike(flight, member, 1.0)
            if flight.strikes < STRIKES:
                flight.deaths += 1
                self._resume(flight)
                return True
            flight.finish(end)
        assert flight.last is not None
        self._finish(flight, flight.last)
        return True

    def _returned(self, member: Member, number: int, is_back: bool) -> None:
        """The answer to `Unbind`."""
        standing = member.standing
        assert standing is not None
        flight = standing.flights.get(number)
        if flight is None or not flight.is_leaving:
            return
        standing.leaves(flight, is_leaving=False)
        goes_to, flight.goes_to = flight.goes_to, None
        is_evicted, flight.is_evicted = flight.is_evicted, False
        if not is_back:
            return
        self.stolen += 1
        standing.release(flight)
        self._end_probation(flight)
        flight.member = None
        if is_evicted or member.id not in self._ready:  # nobody has decided about it yet
            self._arrive(flight)
        elif goes_to in self._ready:
            assert goes_to is not None
            self._bind(flight, goes_to)
        elif goes_to is not None or not self._ready:  # who should have had it is gone
            self._arrive(flight)
        else:  # it is in the dispatcher's queue again
            self._unbound[flight.request_id] = flight

    # Decisions

    def tick(self) -> None:
        """What is due by the clock alone."""
        now_s = self._clock.now_s()
        dispatcher = self._dispatcher
        if dispatcher is not None and self._ready:
            if now_s >= dispatcher.wake_s:
                self._carry_out(dispatcher.woke(now_s))
            for member in self.ready:
                self._step_if_idle(member, now_s)
        self._expire(now_s)
        self._let_down(now_s)
        self._send()

    def _step_if_idle(self, member: Member, now_s: float) -> None:
        """Ask what a replica should get that tells nothing because no token comes of its steps."""
        standing = member.standing
        assert standing is not None
        if not standing.flights:
            self._stepped(member.id)
        elif self.has_queue and standing.view.prompt_tokens:
            standing.advance(now_s)
            self._stepped(member.id)

    def _stepped(self, member_id: int) -> None:
        dispatcher = self._dispatcher
        if dispatcher is None or member_id not in self._ready:
            return
        for _ in range(MOST_ROUNDS):
            self._is_asked_again = False
            self._carry_out(dispatcher.stepped(member_id, self._clock.now_s()))
            if not self._is_asked_again:
                return

    def _carry_out(self, decisions: Sequence[Decision]) -> None:
        for decision in decisions:
            if isinstance(decision, Bind):
                self._bind_if_there(decision)
            elif isinstance(decision, GiveBack):
                self._give_back(decision)
            elif isinstance(decision, Relegate):
                flight = self.flights.get(decision.request_id)
                if flight is not None:
                    flight.was_relegated = True
            elif isinstance(decision, Refuse):
                self._refuse(decision)
            elif isinstance(decision, Flip):
                self._flip(decision)
            # Keys and values don't move between these replicas: they have no link.

    def _bind_if_there(self, decision: Bind) -> None:
        flight = self._unbound.pop(decision.request_id, None)
        if flight is not None:
            self._bind(flight, decision.replica_id)
            return
        flight = self.flights.get(decision.request_id)
        if flight is not None and flight.is_leaving:
            flight.goes_to = decision.replica_id
        else:  # it has ended in the queue: that replica still has room
            self._is_asked_again = True

    def _bind(self, flight: Flight, member_id: int) -> None:
        member = self._ready[member_id]
        assert member.standing is not None
        flight.member = member
        flight.bound_at = len(flight.output)
        member.standing.bind(flight)
        flight.order = self._order(member, flight.addition())

    def _give_back(self, decision: GiveBack) -> None:
        flight = self.flights.get(decision.request_id)
        member = self._ready.get(decision.replica_id)
        if flight is None or member is None or flight.member is not member or flight.is_leaving:
            return
        self._ask_back(flight, member)

    def _ask_back(self, flight: Flight, member: Member) -> None:
        assert member.standing is not None
        member.standing.leaves(flight, is_leaving=True)
        self._order(member, Unbind(flight.number))

    def _refuse(self, decision: Refuse) -> None:
        flight = self._unbound.pop(decision.request_id, None)
        if flight is not None:
            self.refused += 1
            self.forget(flight, Infeasible(decision.answer))

    def _flip(self, decision: Flip) -> None:
        """A role is the dispatcher's preference; any replica can serve anything."""
        member = self._ready.get(decision.replica_id)
        if member is not None and member.standing is not None:
            member.standing.view.role = decision.role

    def _order(self, member: Member, order: Order) -> int:
        self._touched[member.id] = member
        return member.order(order)

    def _send(self) -> None:
        self._probe()
        touched, self._touched = self._touched, {}
        for member in touched.values():
            self._flush(member)

    # Time

    def _watch(self, flight: Flight) -> None:
        """Note a hard deadline; those of requests that have ended are dropped now and then."""
        if flight.expires_s == inf:
            return
        heappush(self._expiries, (flight.expires_s, flight.number, flight))
        if len(self._expiries) > 2 * len(self.flights) + SPARE:
            self._expiries = [entry for entry in self._expiries if not entry[2].is_shut]
            heapify(self._expiries)

    def _expire(self, now_s: float) -> None:
        """End what is past a hard deadline and has no replica that would."""
        while self._expiries and self._expiries[0][0] < now_s:
            _, number, flight = heappop(self._expiries)
            if flight.last is not None or flight.request_id not in self.flights:
                continue
            if flight.member is None:
                self._finish(flight, flight.finish_here(FinishReason.EXPIRED))
            else:
                heappush(self._expiries, (now_s + AGAIN_S, number, flight))

    def _let_down(self, now_s: float) -> None:
        """Tell those that have waited too long for a replica."""
        for flight, since_s in list(self._held.values()):
            if now_s - since_s > self._hold_s:
                self.forget(
                    flight,
                    EngineNotReady(
                        f"no replica has been ready for {self._hold_s:g} s", self._retry_s()
                    ),
                )


def _load(member: Member) -> tuple[int, int]:
    """What a replica has to do before it begins anything else."""
    assert member.standing is not None
    return member.standing.view.prompt_tokens, member.standing.view.requests
