"""Discrete events in a total order: arrivals, ends of steps and transfers, failures, starts.

Events are ordered by time, then kind (failures, starts, arrivals, ends of steps, transfers), then
by when they were made: same input, same output. Whatever happens at one moment has happened before
a replica begins its next step. Seconds.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from heapq import heapify, heappop, heappush
from math import inf

from hfx.cost.link import Link
from hfx.request import FinishReason
from hfx.scheduler.dispatch_view import (
    Bind,
    Decision,
    Dispatcher,
    Flip,
    Migrate,
    Refuse,
    Relegate,
    Role,
    Unbind,
)

from .elastic import Elastic
from .flight import Flight
from .job import Fate, Job
from .links import Links
from .moves import Moves
from .replica import Replica
from .residents import close
from .roster import Roster
from .starts import ColdStart, Starts
from .stepping import FAILURE, RETURN, START, STEP_END, Stepping

MOST_IDLE_WAKES = 100_000  # in a row in which nothing else happens
LINK = Link(bytes_per_s=25e9)

Event = tuple[float, int, int, int]  # when, kind, number, replica


@dataclass(frozen=True, slots=True)
class Failure:
    """A replica dies at a moment; with `back_after_s` a fresh one takes its place that much later.

    What it was serving resumes elsewhere from the output tokens that had been sent.
    """

    at_s: float
    replica_id: int
    back_after_s: float = inf


@dataclass(frozen=True, slots=True)
class Result:
    """A whole run: each job's fate in order of arrival, and what the fleet did for it."""

    fates: tuple[Fate, ...]
    end_s: float  # when the last request ended
    accelerator_s: float  # of replicas that start, serve or drain, from 0 to the end
    busy_s: float  # of them computing
    steps: int
    plans: int
    decisions: int
    moves: int = 0  # of requests from one replica to another
    moved_bytes: float = 0.0
    starts: int = 0  # of replicas after time 0


class Fleet:
    """Replicas and a dispatcher over them, on one virtual clock that starts at 0.

    `spawn` makes a replica: one that takes the place of a failed one, or that the scaler orders,
    which then takes `cold_start`. A role is changed at a cost of `flip_s` without steps. `link` is
    what each replica sends over, and receives over. `keep_tokens` writes the time of every token
    down. `observer` is shown the time and the fleet as it stood until then, and answers when it
    wants to look again.
    """

    def __init__(
        self,
        replicas: Sequence[Replica],
        dispatcher: Dispatcher,
        *,
        failures: Iterable[Failure] = (),
        spawn: Callable[[int], Replica] | None = None,
        link: Link = LINK,
        flip_s: float = 0.0,
        elastic: Elastic | None = None,
        cold_start: ColdStart | None = None,
        keep_tokens: bool = False,
        observer: Callable[[float, Fleet], float] | None = None,
    ) -> None:
        self.roster = Roster(replicas)
        self.replicas = self.roster.replicas
        self.dispatcher = dispatcher
        self.links = Links(link)
        self.stepping = Stepping(self, flip_s)
        self.moves = Moves(self.links, self.stepping.still, self.stepping.wake)
        self.starts = Starts(
            cold_start or ColdStart(), self.links, lambda at_s, id: self.push(at_s, START, id)
        )
        self._spawn = spawn
        self._elastic = elastic
        self._keep_tokens = keep_tokens
        self._observer = observer
        self._unbound: dict[str, Flight] = {}
        self._homeless: list[Flight] = []  # while no replica is ready
        self._made = 0
        self._events: list[Event] = []
        self._failures: dict[int, Failure] = {}
        self._left = self._decisions = 0
        for replica in replicas:
            self._join(replica)
        for failure in failures:
            self._failures[self.push(failure.at_s, FAILURE, failure.replica_id)] = failure

    def run(self, jobs: Iterable[Job], progress: Callable[[int], None] | None = None) -> Result:
        """Serve jobs to their end; `progress` hears how many more have arrived.

        Raises:
            RuntimeError: a policy does nothing although there is work and nothing will happen.
        """
        key = sorted(jobs, key=lambda job: (job.request.arrival_s, job.request.id))
        flights = [Flight(job, n, keep_tokens=self._keep_tokens) for n, job in enumerate(key)]
        next_, count, told = 0, len(flights), 0
        self._left = count
        now_s = 0.0
        heapify(self._events)
        idle, look_s = 0, 0.0 if self._observer else inf
        while self._left:
            arrival_s = flights[next_].live.arrival_s if next_ < count else inf
            event_s = min(arrival_s, self._events[0][0] if self._events else inf)
            event_s = min(event_s, self.links.next_s)
            wake_s = self._wake_s()
            idle = idle + 1 if wake_s < event_s else 0
            if event_s == inf and (wake_s == inf or idle > MOST_IDLE_WAKES):
                break
            now_s = max(now_s, min(event_s, wake_s))
            if now_s >= look_s:
                assert self._observer is not None
                look_s = self._observer(now_s, self)
            while self._events and self._events[0][:2] <= (now_s, START):
                self._handle(heappop(self._events))
            while next_ < count and flights[next_].live.arrival_s <= now_s:
                if self._elastic is not None:
                    self._elastic.watch.arrived(flights[next_])
                self._arrive(flights[next_], now_s)
                next_ += 1
            while self._events and self._events[0][0] <= now_s:
                self._handle(heappop(self._events))
            if self.links.next_s <= now_s:
                self._deliver(now_s)
            if wake_s <= now_s or self._homeless:
                self._ask(now_s)
            self.stepping.begin(now_s)
            if progress is not None and next_ - told >= 256:
                progress(next_ - told)
                told = next_
        if progress is not None:
            progress(count - told)
        self._require_done()
        return self._result(flights, now_s)

    # What others look at

    @property
    def queued(self) -> int:
        """Requests that no replica has yet."""
        return len(self._unbound) + len(self._homeless)

    @property
    def homeless(self) -> Sequence[Flight]:
        """Requests that are held because no replica is ready."""
        return self._homeless

    @property
    def unbound(self) -> Iterable[Flight]:
        """Requests in the dispatcher's queue."""
        return self._unbound.values()

    def states(self) -> dict[str, int]:
        """How many replicas are in each state: ready ones by role, where they have one."""
        return self.roster.states()

    def busy_s(self, now_s: float) -> float:
        """How long replicas have computed until now, all of them together."""
        return self.roster.busy_s(now_s)

    # Events

    def push(self, at_s: float, kind: int, replica_id: int) -> int:
        """Let something happen to a replica later; the number of the event."""
        self._made += 1
        heappush(self._events, (at_s, kind, self._made, replica_id))
        return self._made

    def _wake_s(self) -> float:
        """When somebody wants to be asked of whom nothing else reminds."""
        dispatcher_s = self.dispatcher.wake_s if self.roster.has_ready else inf
        return dispatcher_s if self._elastic is None else min(dispatcher_s, self._elastic.wake_s)

    def _handle(self, event: Event) -> None:
        now_s, kind, number, id = event
        if kind == STEP_END:
            self.stepping.finish(id, number, now_s)
        elif kind == FAILURE:
            self._fail(self._failures.pop(number), now_s)
        elif kind == RETURN:
            if id not in self.replicas and self._spawn is not None:
                self._come(self._spawn(id), now_s)
        elif kind == START:
            if self.starts.passed(id, number, self.roster.ready_ids, now_s):
                self._come(self.roster.coming[id], now_s)
        else:
            self.stepping.resume(id, number)

    def _arrive(self, flight: Flight, now_s: float) -> None:
        if not self.roster.has_ready:
            self._homeless.append(flight)
            return
        had_queue = self.dispatcher.has_queue
        self._unbound[flight.live.request.id] = flight
        self.carry_out(self.dispatcher.arrived(flight.live, now_s), now_s)
        if self.dispatcher.has_queue and not had_queue:
            self.stepping.cut_all(now_s)

    def _deliver(self, now_s: float) -> None:
        for transfer in self.links.ended(now_s):
            if not self.moves.ended(transfer, now_s):
                self._come(self.roster.coming[self.starts.ended(transfer)], now_s)

    def _ask(self, now_s: float) -> None:
        """Let the dispatcher and the scaler do what they want to do of themselves."""
        if self.dispatcher.wake_s <= now_s and self.roster.has_ready:
            self.carry_out(self.dispatcher.woke(now_s), now_s)
            assert self.dispatcher.wake_s > now_s, "a dispatcher that is woken all the time"
        if self._elastic is not None:
            is_stranded = self._homeless and not self.roster.coming
            if self._elastic.wake_s <= now_s or is_stranded:
                self._elastic.look(self, now_s)
                assert self._elastic.wake_s > now_s, "a scaler that is asked all the time"

    # Replicas come and go

    def start(self, role: Role, now_s: float) -> None:
        """Order a replica."""
        assert self._spawn is not None, "a fleet that grows needs to know how"
        replica = self._spawn(self.roster.new_id())
        replica.view.role = role
        self.roster.order(replica, now_s)
        self.starts.begin(replica.id, now_s)

    def stop(self, id: int, now_s: float) -> None:
        """Give up a replica that starts; let one that is ready end what it runs, then go."""
        if id in self.roster.coming:
            self.starts.give_up(id, now_s)
            self.roster.give_up(id, now_s)
            return
        replica = self.replicas[id]
        self.roster.drain(id, now_s)
        self.dispatcher.left(id)
        self.moves.turn_back(replica, now_s)
        for live in list(replica.waiting):
            self._arrive(replica.remove(live.request.id), now_s)
        self.stepping.wake(replica)

    def flip(self, id: int, role: Role, now_s: float) -> None:
        """Change a replica's role, and let it pause for it once its step has ended."""
        replica = self.replicas[id]
        if replica.view.role != role:
            replica.view.role = role
            self.stepping.pause(replica, now_s)

    def _come(self, replica: Replica, now_s: float) -> None:
        """A replica is ready."""
        self.roster.come(replica, now_s)
        self._join(replica)
        self.stepping.wake(replica)
        homeless, self._homeless = self._homeless, []
        for flight in homeless:
            self._arrive(flight, now_s)

    def _join(self, replica: Replica) -> None:
        replica.share(self._unbound)
        replica.view.link = self.links.of(replica.id)
        self.dispatcher.joined(replica.view)

    def _fail(self, failure: Failure, now_s: float) -> None:
        id = failure.replica_id
        if id in self.roster.coming:
            self.stop(id, now_s)
        elif id in self.replicas:
            self._lose(self.replicas[id], now_s)
        else:
            return
        if failure.back_after_s < inf:
            self.push(now_s + failure.back_after_s, RETURN, id)

    def _lose(self, replica: Replica, now_s: float) -> None:
        """A replica has failed: what it had goes elsewhere."""
        replica.catch_up(now_s)
        if replica.id not in self.roster.draining:
            self.dispatcher.left(replica.id)
        self.remove(replica, now_s)
        for flight in replica.evacuate():
            self._arrive(flight, now_s)

    def remove(self, replica: Replica, now_s: float) -> None:
        """A replica is gone, and with it what it was sending."""
        id = replica.id
        self.moves.lost(replica, now_s)
        self.roster.remove(id, now_s)
        self.starts.lost(id, self.roster.ready_ids, now_s)
        self.stepping.forget(id)

    # Decisions

    def carry_out(self, decisions: Sequence[Decision], now_s: float) -> None:
        """Do what a dispatcher has decided, in order."""
        self._decisions += len(decisions)
        for decision in decisions:
            match decision:
                case Bind(request_id, replica_id):
                    replica = self.replicas[replica_id]
                    replica.add(self._unbound.pop(request_id))
                    self.stepping.cut(replica, now_s)
                    self.stepping.wake(replica)
                case Unbind(request_id, replica_id):
                    flight = self.replicas[replica_id].remove(request_id)
                    self._unbound[request_id] = flight
                case Relegate(request_id):
                    self._unbound[request_id].fate.was_relegated = True
                case Refuse(request_id):
                    self._refuse(self._unbound.pop(request_id))
                case Migrate(_, source_id, target_id):
                    source, target = self.replicas[source_id], self.replicas[target_id]
                    self.moves.begin(decision, source, target, now_s)
                case Flip(replica_id, role):
                    self.flip(replica_id, role, now_s)

    def _refuse(self, flight: Flight) -> None:
        flight.fate.was_refused = True
        close(flight, FinishReason.ABORT)
        self._count(flight)

    def report(self, replica: Replica) -> None:
        """Tell the dispatcher whose requests have ended."""
        for flight in replica.ended:
            fate = flight.fate
            assert fate.reason is not None
            self.dispatcher.ended(flight.live.request, fate.output_tokens, fate.reason)
            self._count(flight)
        replica.ended.clear()

    def _count(self, flight: Flight) -> None:
        self._left -= 1
        if self._elastic is not None:
            self._elastic.watch.ended(flight)

    # The end

    def _require_done(self) -> None:
        if self._left:
            raise RuntimeError(
                f"{self._left} requests are left and nothing will happen any more: no replica is "
                "there, or they can't be planned (is the cache smaller than a request?)"
            )

    def _result(self, flights: Sequence[Flight], end_s: float) -> Result:
        roster = self.roster
        accelerator_s = roster.close(end_s)
        return Result(
            tuple(flight.fate for flight in flights),
            end_s,
            accelerator_s,
            roster.closed_busy_s,
            roster.steps,
            roster.plans,
            self._decisions,
            self.moves.done,
            self.moves.moved_bytes,
            roster.started,
        )
