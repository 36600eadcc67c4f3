"""Which replica of a simulated fleet steps when: who is ready, within a run, stalled or paused.

A replica begins its next step once everything else of that moment has happened. Seconds.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from .replica import Replica

if TYPE_CHECKING:
    from .fleet import Fleet

FAILURE, RETURN, START, STEP_END, RESUME = range(5)  # arrivals come from a list, after starts


class Stepping:
    """The steps of all replicas; a flip of role costs `flip_s` without them."""

    def __init__(self, fleet: Fleet, flip_s: float) -> None:
        self.fleet = fleet
        self.flip_s = flip_s
        self._ready: list[int] = []
        self._stalled: set[int] = set()  # nothing of theirs can progress
        self._ends: dict[int, int] = {}  # of each replica's running step: the event that counts
        self._runs: dict[int, None] = {}  # those that are within a run of steps
        self._flipping: set[int] = set()  # those that pause once their step has ended,
        self._paused: dict[int, int] = {}  # and those that do: the event that ends it

    def begin(self, now_s: float) -> None:
        """Let whoever has no step running begin one."""
        ready, self._ready = sorted({*self._ready, *self._stalled}), []
        replicas = self.fleet.replicas
        while ready:
            for id in ready:
                replica = replicas.get(id)
                if replica is not None and not replica.is_stepping and id not in self._paused:
                    self._begin_one(replica, now_s)
            ready, self._ready = sorted(set(self._ready) - self._stalled), []

    def finish(self, id: int, number: int, now_s: float) -> None:
        """A step, or a run of steps, has ended, unless the event is out of date."""
        if self._ends.get(id) != number:
            return  # the run was cut short, or the replica is gone
        del self._ends[id]
        self._runs.pop(id, None)
        fleet = self.fleet
        replica = fleet.replicas[id]
        replica.finish(now_s)
        fleet.report(replica)
        fleet.moves.stepped(replica, now_s)
        self._ready.append(id)

    def wake(self, replica: Replica) -> None:
        """A replica may have something to plan."""
        if not replica.is_stepping:
            self._ready.append(replica.id)

    def cut(self, replica: Replica, now_s: float) -> None:
        """Let a run of steps end with the present one."""
        self._runs.pop(replica.id, None)
        end_s = replica.cut(now_s)
        if end_s is not None:
            self._ends[replica.id] = self.fleet.push(end_s, STEP_END, replica.id)

    def cut_all(self, now_s: float) -> None:
        """Let everybody be asked after the present step."""
        for id in list(self._runs):
            self.cut(self.fleet.replicas[id], now_s)

    def still(self, replica: Replica, now_s: float) -> None:
        """Let a replica's requests be as they are now, whatever it is doing."""
        self.cut(replica, now_s)
        replica.catch_up(now_s)

    def pause(self, replica: Replica, now_s: float) -> None:
        """Let a replica do nothing for a while once its step has ended."""
        if self.flip_s:
            self._flipping.add(replica.id)
            self.cut(replica, now_s)
            self.wake(replica)

    def resume(self, id: int, number: int) -> None:
        """A pause is over, unless the event is out of date."""
        if self._paused.get(id) == number:
            del self._paused[id]
            self._ready.append(id)

    def forget(self, id: int) -> None:
        """A replica is gone."""
        for book in (self._ends, self._runs, self._paused):
            book.pop(id, None)
        self._stalled.discard(id)
        self._flipping.discard(id)

    def _begin_one(self, replica: Replica, now_s: float) -> None:
        id, fleet = replica.id, self.fleet
        is_draining = id in fleet.roster.draining
        self._stalled.discard(id)
        if not is_draining:
            fleet.carry_out(fleet.dispatcher.stepped(id, now_s), now_s)
        elif not replica.flights:
            fleet.remove(replica, now_s)
            return
        if id in self._flipping:
            self._flipping.discard(id)
            replica.view.boundary_s = now_s + self.flip_s
            self._paused[id] = fleet.push(replica.view.boundary_s, RESUME, id)
        elif replica.has_work:
            self._step(replica, now_s)
            if is_draining and not replica.is_stepping:
                self.wake(replica)

    def _step(self, replica: Replica, now_s: float) -> None:
        id, fleet = replica.id, self.fleet
        end_s = replica.begin(now_s, jump=not fleet.dispatcher.has_queue)
        fleet.report(replica)
        fleet.moves.stepped(replica, now_s)
        if end_s is not None:
            self._ends[id] = fleet.push(end_s, STEP_END, id)
            if replica.is_in_run:
                self._runs[id] = None
        elif replica.has_work:
            self._stalled.add(id)
