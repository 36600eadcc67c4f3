"""What a person does to a fleet that serves: drain, replace, resize; no request is lost by it.

At most one change of the whole fleet is under way at a time. For the event loop's thread; seconds.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections.abc import Coroutine
from functools import partial
from typing import Any

from .change import Busy, Change, NotUp
from .crew import Crew
from .member import Life, Member
from .placing import has_room

logger = logging.getLogger(__name__)

DRAIN_S = 60.0  # for requests to end where they are; then they go on elsewhere
READY_S = 600.0  # for a process to load a model
END_S = 30.0  # for one that was told to end; it is killed long before


class Operated(Crew):
    """A crew with the means to change it."""

    change: Change | None = None  # the one under way, or the last
    last_restart: Change | None = None
    _changing: asyncio.Task[None] | None = None

    # One replica

    def drain_replica(
        self, replica_id: int, *, move: bool = False, timeout_s: float | None = None
    ) -> None:
        """Bind nothing more to a replica; what it has begun it ends, the rest moves at once.

        With `move` all of it moves at once, with a timeout what has not ended by then.

        Raises:
            ValueError: there is no such replica.
        """
        member = self._member(replica_id)
        member.is_drained = True
        if member.phase == "ready":
            member.phase = "draining"
            self._desk.leave(member)
        member.forget_mover()
        if move:
            self._desk.move(member)
        elif timeout_s is not None:
            member.mover = self._loop.call_later(timeout_s, self._desk.move, member)

    def undrain_replica(self, replica_id: int) -> None:
        """Bind to it again; one that is left alone for dying too often is tried at once.

        Raises:
            ValueError: there is no such replica.
        """
        member = self._member(replica_id)
        member.forget_mover()
        member.is_drained = False
        member.backoff.forgive()
        if member.phase == "open":
            member.phase, member.retry_s = "resting", self.clock.now_s()
        if member.phase == "draining":
            member.phase = "ready"
            self._desk.join(member)

    async def restart_replica(
        self, replica_id: int, drain_s: float = DRAIN_S, ready_s: float = READY_S
    ) -> None:
        """Replace a replica's process: drain, stop, wait for the next to be ready.

        What has not ended after `drain_s` goes on elsewhere from where it stands; where nobody else
        takes requests that is at once, as others would only wait.

        Raises:
            ValueError: there is no such replica.
            NotUp: its successor dies, or is not ready after `ready_s`. It is tried again later.
        """
        member = self._member(replica_id)
        was_drained = member.is_drained
        self.drain_replica(replica_id)
        try:
            life = member.life
            if life is not None and life.standing is not None and self._roster.ready():
                await self._until(partial(_is_empty, member), drain_s)
            if member.life is life and life is not None:
                self._roster.stop(member)
        finally:
            if not was_drained:
                self._restore(member)
        await self._come_up(member, life, ready_s)

    def _restore(self, member: Member) -> None:
        """It takes requests again once it is ready, or now where it still is."""
        member.is_drained = False
        if member.phase == "draining":
            self.undrain_replica(member.id)

    async def _come_up(self, member: Member, before: Life | None, ready_s: float) -> None:
        """Wait for a process other than `before` to be ready.

        Raises:
            NotUp: it dies instead, or takes too long.
        """
        deaths = _deaths(member)
        is_over = partial(_is_up_or_dead, member, before, deaths)
        in_time = await self._until(is_over, ready_s)
        if not _is_up(member, before):
            why = member.last_death if in_time else f"it is not ready after {ready_s:g} s"
            raise NotUp(f"replica {member.id} does not come up: {why}")

    # All of them

    def begin_restart(self, drain_s: float = DRAIN_S, ready_s: float = READY_S) -> Change:
        """Replace all processes, one after the other, in the background.

        Raises:
            Busy: another change is under way.
        """
        change = self.last_restart = self._claim("restart", len(self._roster.members))
        self._go(change, self._roll(change, drain_s, ready_s))
        return change

    def begin_resize(
        self, replicas: int, drain_s: float = DRAIN_S, ready_s: float = READY_S
    ) -> Change:
        """Start or drain and stop replicas, in the background; see `resize`.

        Raises:
            Busy: another change is under way.
            ValueError: fewer than one, or there are not enough devices.
        """
        fresh = self._fresh(replicas)
        change = self._claim("resize", replicas)
        self._go(change, self._resize(change, fresh, drain_s, ready_s))
        return change

    async def restart_all(self, drain_s: float = DRAIN_S, ready_s: float = READY_S) -> None:
        """Replace all processes, one after the other; no more than one is away at a time.

        Raises:
            Busy: another change is under way.
            NotUp: a successor does not come up; those behind it are left as they are.
        """
        change = self.last_restart = self._claim("restart", len(self._roster.members))
        await self._carried_out(change, self._roll(change, drain_s, ready_s))

    async def resize(
        self, replicas: int, drain_s: float = DRAIN_S, ready_s: float = READY_S
    ) -> None:
        """Have so many replicas: start new ones, or drain and stop those with the highest ids.

        Returns once those that are too many have ended; new ones become ready in their time.

        Raises:
            Busy: another change is under way.
            ValueError: fewer than one, or there are not enough devices; nothing has changed.
            NotUp: none of those that stay is ready after `ready_s`; nothing was drained.
        """
        fresh = self._fresh(replicas)
        change = self._claim("resize", replicas)
        await self._carried_out(change, self._resize(change, fresh, drain_s, ready_s))

    def stop_changing(self) -> None:
        """Leave a change that is under way as it stands: the fleet is about to stop."""
        if self._changing is not None:
            self._changing.cancel()
        for member in self.members:
            member.forget_mover()

    def check_free(self, replica_id: int) -> None:
        """Check that no change has a replica in hand.

        Raises:
            Busy: one has.
        """
        change = self.change
        if change is not None and change.state == "running" and change.at == replica_id:
            raise Busy(f"replica {replica_id} is in the hands of a {change.kind}")

    def _claim(self, kind: Any, replicas: int) -> Change:
        change = self.change
        if change is not None and change.state == "running":
            raise Busy(f"a {change.kind} is under way: wait for its end")
        self.change = Change(kind, replicas, self.clock.now_s())
        return self.change

    def _go(self, change: Change, work: Coroutine[Any, Any, None]) -> None:
        async def alone() -> None:
            try:
                await self._carried_out(change, work)
            except NotUp as error:
                logger.error("the %s has stopped: %s", change.kind, error)
            except Exception:
                logger.exception("the %s has failed", change.kind)

        self._changing = asyncio.ensure_future(alone())

    async def _carried_out(self, change: Change, work: Coroutine[Any, Any, None]) -> None:
        try:
            await work
        except asyncio.CancelledError:
            change.end(self.clock.now_s(), "the server is about to stop")
            raise
        except Exception as error:
            change.end(self.clock.now_s(), str(error) or repr(error))
            raise
        change.end(self.clock.now_s())

    async def _roll(self, change: Change, drain_s: float, ready_s: float) -> None:
        spare = await self._spare(change, ready_s)
        try:
            for member in self.members:
                if member is spare or not member.is_wanted:
                    continue
                await self._others_ready(member, ready_s)
                change.at = member.id
                await self.restart_replica(member.id, drain_s, ready_s)
                change.done.append(member.id)
        finally:
            change.at = None
            if spare is not None:
                await self._dismiss(spare, drain_s)
                change.spare = None

    async def _spare(self, change: Change, ready_s: float) -> Member | None:
        """One replica more for the time, so that none is missing; None where it has no room."""
        members = self._roster.members
        if not has_room(len(members), self._config, self._engine):
            return None
        change.spare = next(n for n in itertools.count() if n not in members)
        spare = self._roster.add(change.spare)
        try:
            await self._come_up(spare, None, ready_s)
        except BaseException:
            self._roster.remove(spare)
            raise
        return spare

    async def _others_ready(self, member: Member, ready_s: float) -> None:
        """Wait until nobody else is away, but those that somebody keeps out."""
        others = [m for m in self.members if m is not member and not m.is_drained]

        def away() -> list[int]:
            return [m.id for m in others if m.phase != "ready"]

        if not await self._until(lambda: not away(), ready_s):
            raise NotUp(
                f"replica {away()[0]} is not ready after {ready_s:g} s: no other is stopped"
            )

    async def _dismiss(self, member: Member, drain_s: float) -> None:
        self.drain_replica(member.id)
        if self._roster.ready():
            await self._until(partial(_is_empty, member), drain_s)
        if member.id in self._roster.members:
            self._roster.remove(member)
        await self._until(lambda: member.id not in self._roster.members, END_S)

    def _fresh(self, replicas: int) -> list[int]:
        """The ids of those that are missing."""
        if replicas < 1:
            raise ValueError(f"replicas is {replicas}: a fleet has at least 1")
        members = self._roster.members
        free = (n for n in itertools.count() if n not in members)
        fresh = list(itertools.islice(free, max(0, replicas - len(members))))
        for replica_id in fresh:
            self._roster.check(replica_id)
        return fresh

    async def _resize(
        self, change: Change, fresh: list[int], drain_s: float, ready_s: float
    ) -> None:
        self._wanted = change.replicas
        for replica_id in fresh:
            self._roster.add(replica_id)
        kept, surplus = self.members[: change.replicas], self.members[change.replicas :]
        if not surplus:
            return
        if not await self._until(lambda: any(m.phase == "ready" for m in kept), ready_s):
            self._wanted = len(self._roster.members)
            raise NotUp(f"none of those to stay is ready after {ready_s:g} s: none was stopped")
        for member in surplus:
            self.drain_replica(member.id)
        for member in reversed(surplus):
            change.at = member.id
            await self._dismiss(member, drain_s)
            change.done.append(member.id)


def _is_empty(member: Member) -> bool:
    """Whether a member has no requests."""
    return member.standing is None or not member.standing.flights


def _is_up(member: Member, before: Life | None) -> bool:
    return member.life is not before and member.phase in ("ready", "draining")


def _deaths(member: Member) -> int:
    return sum(member.deaths.values())


def _is_up_or_dead(member: Member, before: Life | None, deaths: int) -> bool:
    return _is_up(member, before) or _deaths(member) > deaths
