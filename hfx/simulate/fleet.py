"""Discrete events in a total order: arrivals, ends of steps, failures; same input, same output.

Events are ordered by time, then kind (failures, arrivals, ends of steps), then by when they were
made. Whatever happens at one moment has happened before a replica begins its next step. Seconds.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from heapq import heapify, heappop, heappush
from math import inf

from hfx.request import FinishReason
from hfx.scheduler.dispatch_view import Bind, Decision, Dispatcher, Flip, Migrate, Refuse, Relegate

from .flight import Flight
from .job import Fate, Job
from .replica import Replica
from .residents import close

FAILURE, STEP_END = 0, 2  # arrivals, which come from a sorted list, go between
MOST_IDLE_WAKES = 100_000  # in a row in which nothing else happens


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
    accelerator_s: float  # of replicas being there, from 0 to the end
    busy_s: float  # of them computing
    steps: int
    plans: int
    decisions: int


class Fleet:
    """Replicas and a dispatcher over them, on one virtual clock that starts at 0.

    `spawn` makes the replica that takes the place of a failed one. `keep_tokens` writes the time of
    every token down. `observer` is shown the time and the fleet as it stood until then, and answers
    when it wants to look again.
    """

    def __init__(
        self,
        replicas: Sequence[Replica],
        dispatcher: Dispatcher,
        *,
        failures: Iterable[Failure] = (),
        spawn: Callable[[int], Replica] | None = None,
        keep_tokens: bool = False,
        observer: Callable[[float, Fleet], float] | None = None,
    ) -> None:
        self.replicas = {replica.id: replica for replica in replicas}
        self.dispatcher = dispatcher
        self._spawn = spawn
        self._keep_tokens = keep_tokens
        self._observer = observer
        self._unbound: dict[str, Flight] = {}
        self._moves: dict[int, list[Migrate]] = {}  # by source
        self._homeless: list[Flight] = []  # while no replica is there
        self._ready: list[int] = []
        self._stalled: set[int] = set()
        self._made = 0
        self._ends: dict[int, int] = {}  # of each replica's running step: the event that counts
        self._events: list[tuple[float, int, int, int]] = []
        self._failures: dict[int, Failure] = {}
        self._gone_s = self._busy_s = 0.0
        self._steps = self._plans = self._decisions = 0
        self._since_s = dict.fromkeys(self.replicas, 0.0)
        for replica in replicas:
            self._join(replica)
        for failure in failures:
            self._push(failure.at_s, FAILURE, failure.replica_id)
            self._failures[self._made] = failure

    def run(self, jobs: Iterable[Job], progress: Callable[[int], None] | None = None) -> Result:
        """Serve jobs to their end; `progress` hears how many more have arrived.

        Raises:
            RuntimeError: a policy does nothing although there is work and nothing will happen.
        """
        key = sorted(jobs, key=lambda job: (job.request.arrival_s, job.request.id))
        flights = [Flight(job, n, keep_tokens=self._keep_tokens) for n, job in enumerate(key)]
        next_, count, told = 0, len(flights), 0
        now_s = 0.0
        heapify(self._events)
        idle, look_s = 0, 0.0 if self._observer else inf
        while next_ < count or self._events or self._is_awaited(idle):
            arrival_s = flights[next_].live.arrival_s if next_ < count else inf
            event_s = min(arrival_s, self._events[0][0] if self._events else inf)
            wake_s = self.dispatcher.wake_s
            idle = idle + 1 if wake_s < event_s else 0
            now_s = max(now_s, min(event_s, wake_s))
            if now_s >= look_s:
                assert self._observer is not None
                look_s = self._observer(now_s, self)
            while self._events and self._events[0][:2] <= (now_s, FAILURE):
                self._fail(heappop(self._events))
            while next_ < count and flights[next_].live.arrival_s <= now_s:
                self._arrive(flights[next_], now_s)
                next_ += 1
            while self._events and self._events[0][0] <= now_s:
                self._finish(heappop(self._events))
            if wake_s <= now_s:
                self._carry_out(self.dispatcher.woke(now_s), now_s)
            self._begin(now_s)
            if progress is not None and next_ - told >= 256:
                progress(next_ - told)
                told = next_
        if progress is not None:
            progress(count - told)
        self._require_done(flights)
        return self._result(flights, now_s)

    def _is_awaited(self, idle: int) -> bool:
        """Whether the dispatcher may still bind what it holds when it wakes."""
        return bool(self._unbound) and self.dispatcher.wake_s < inf and idle < MOST_IDLE_WAKES

    @property
    def queued(self) -> int:
        """Requests that no replica has yet."""
        return len(self._unbound) + len(self._homeless)

    def busy_s(self, now_s: float) -> float:
        """How long replicas have computed until now, all of them together."""
        here_s = sum(replica.busy_until(now_s) for replica in self.replicas.values())
        return self._busy_s + here_s

    # Events

    def _push(self, at_s: float, kind: int, replica_id: int) -> int:
        self._made += 1
        heappush(self._events, (at_s, kind, self._made, replica_id))
        return self._made

    def _arrive(self, flight: Flight, now_s: float) -> None:
        if not self.replicas:
            self._homeless.append(flight)
            return
        had_queue = self.dispatcher.has_queue
        self._unbound[flight.live.request.id] = flight
        self._carry_out(self.dispatcher.arrived(flight.live, now_s), now_s)
        if self.dispatcher.has_queue and not had_queue:
            for replica in self.replicas.values():
                self._cut(replica, now_s)

    def _finish(self, event: tuple[float, int, int, int]) -> None:
        now_s, _, number, replica_id = event
        if self._ends.get(replica_id) != number:
            return  # the run was cut short, or the replica is gone
        del self._ends[replica_id]
        replica = self.replicas[replica_id]
        replica.finish(now_s)
        self._report(replica)
        self._move(replica)
        self._ready.append(replica_id)

    def _fail(self, event: tuple[float, int, int, int]) -> None:
        now_s, _, number, replica_id = event
        failure = self._failures.pop(number)
        replica = self.replicas.pop(replica_id, None)
        if replica is None:
            self._come_back(replica_id, now_s)
            return
        self.dispatcher.left(replica_id)
        self._ends.pop(replica_id, None)
        self._moves.pop(replica_id, None)
        self._gone_s += now_s - self._since_s.pop(replica_id)
        self._account(replica)
        self._stalled.discard(replica_id)
        for flight in replica.evacuate():
            self._arrive(flight, now_s)
        if failure.back_after_s < inf and self._spawn is not None:
            self._push(now_s + failure.back_after_s, FAILURE, replica_id)
            self._failures[self._made] = failure

    def _come_back(self, replica_id: int, now_s: float) -> None:
        assert self._spawn is not None
        replica = self.replicas[replica_id] = self._spawn(replica_id)
        self._since_s[replica_id] = now_s
        self._join(replica)
        self._ready.append(replica_id)
        homeless, self._homeless = self._homeless, []
        for flight in homeless:
            self._arrive(flight, now_s)

    def _join(self, replica: Replica) -> None:
        replica.share(self._unbound)
        self.dispatcher.joined(replica.view)

    # Steps

    def _begin(self, now_s: float) -> None:
        """Let whoever has no step running begin one, once everything else has happened."""
        ready, self._ready = sorted({*self._ready, *self._stalled}), []
        while ready:
            for id in ready:
                replica = self.replicas.get(id)
                if replica is None or replica.is_stepping:
                    continue
                self._stalled.discard(id)
                self._carry_out(self.dispatcher.stepped(id, now_s), now_s)
                if not replica.flights:
                    continue
                end_s = replica.begin(now_s, jump=not self.dispatcher.has_queue)
                self._report(replica)
                if end_s is not None:
                    self._ends[id] = self._push(end_s, STEP_END, id)
                elif replica.flights:
                    self._stalled.add(id)
            ready, self._ready = sorted(set(self._ready) - self._stalled), []

    def _cut(self, replica: Replica, now_s: float) -> None:
        end_s = replica.cut(now_s)
        if end_s is not None:
            self._ends[replica.id] = self._push(end_s, STEP_END, replica.id)

    def _carry_out(self, decisions: Sequence[Decision], now_s: float) -> None:
        self._decisions += len(decisions)
        for decision in decisions:
            if isinstance(decision, Bind):
                replica = self.replicas[decision.replica_id]
                replica.add(self._unbound.pop(decision.request_id))
                self._cut(replica, now_s)
                if not replica.is_stepping:
                    self._ready.append(replica.id)
            elif isinstance(decision, Relegate):
                self._unbound[decision.request_id].fate.was_relegated = True
            elif isinstance(decision, Refuse):
                flight = self._unbound.pop(decision.request_id)
                flight.fate.was_refused = True
                close(flight, FinishReason.ABORT)
            elif isinstance(decision, Migrate):
                self._moves.setdefault(decision.source_id, []).append(decision)
                replica = self.replicas[decision.source_id]
                self._cut(replica, now_s)
                if not replica.is_stepping:
                    self._move(replica)
            elif isinstance(decision, Flip):
                self.replicas[decision.replica_id].view.role = decision.role
            else:
                replica = self.replicas[decision.replica_id]
                flight = replica.remove(decision.request_id)
                self._unbound[decision.request_id] = flight

    def _move(self, source: Replica) -> None:
        """Carry out migrations between two steps of their source."""
        for move in self._moves.pop(source.id, ()):
            flight, target = source.flights.get(move.request_id), self.replicas.get(move.target_id)
            if flight is None or not flight.is_running or target is None or target is source:
                continue
            if not target.has_room(flight):
                continue
            target.adopt(source.release(flight))
            if not target.is_stepping:
                self._ready.append(target.id)

    def _report(self, replica: Replica) -> None:
        """Tell the dispatcher whose requests have ended."""
        for flight in replica.ended:
            fate = flight.fate
            assert fate.reason is not None
            self.dispatcher.ended(flight.live.request, fate.output_tokens, fate.reason)
        replica.ended.clear()

    # The end

    def _require_done(self, flights: Sequence[Flight]) -> None:
        left = sum(flight.fate.reason is None for flight in flights)
        if left:
            raise RuntimeError(
                f"{left} requests are left and nothing will happen any more: no replica is there, "
                "or they can't be planned (is the cache smaller than a request?)"
            )

    def _account(self, replica: Replica) -> None:
        self._busy_s += replica.busy_s
        self._steps += replica.steps
        self._plans += replica.plans

    def _result(self, flights: Sequence[Flight], end_s: float) -> Result:
        for replica in self.replicas.values():
            self._account(replica)
        there_s = sum(end_s - since_s for since_s in self._since_s.values())
        return Result(
            tuple(flight.fate for flight in flights),
            end_s,
            self._gone_s + there_s,
            self._busy_s,
            self._steps,
            self._plans,
            self._decisions,
        )
