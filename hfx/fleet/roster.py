"""The replicas of a fleet as processes: started, greeted, watched, killed, started again.

What they compute is not looked at here. For the event loop's thread; seconds on the parent's clock.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from typing import Protocol

from hfx.clock import Clock

from .hub import Hub
from .launch import Handle, Launcher, new_token, wait_all
from .member import WINDOW, Life, Member, overdue
from .messages import (
    Beat,
    Bye,
    Failed,
    Hello,
    Loading,
    Message,
    News,
    Pace,
    Pong,
    ProtocolError,
    Ready,
    Stop,
    Unwelcome,
    Welcome,
    check_version,
    to_parent,
)
from .replica import host_name
from .spec import ReplicaSpec

logger = logging.getLogger(__name__)

SNAPSHOTS_PER_S = 200.0  # of all replicas together
QUICKEST_S = 0.05  # between two snapshots of one replica
LOOK_S = 0.1  # between two looks at all replicas
STOP_S = 5.0  # for a replica to end when told to; then it is killed
KILL_S = 5.0
SOON_S = 2.0  # that a process may wait for its place before it is told of


class Audience(Protocol):
    """Told what becomes of replicas."""

    def on_ready(self, member: Member) -> None:
        """It takes requests from now on."""
        ...

    def on_news(self, member: Member, news: News) -> None:
        """It has told something; in order, each once."""
        ...

    def on_doomed(self, member: Member) -> None:
        """It is lost with others, and told of in its turn: nothing more shall go to it."""
        ...

    def on_lost(self, member: Member, life: Life, *, is_death: bool) -> None:
        """A process is gone, and what it had not told with it; `member` has none now.

        It is no death where it was told to stop.
        """
        ...

    def on_failed(self, member: Member, reason: str, is_mendable: bool) -> None:
        """A process says that it can't go on; its end follows."""
        ...


class Roster:
    """All members and their processes.

    `spec_of(id)` says how a member's process is to be started; epoch, token and endpoint are filled
    in here.
    """

    def __init__(
        self,
        launcher: Launcher,
        spec_of: Callable[[int], ReplicaSpec],
        audience: Audience,
        clock: Clock,
        *,
        lease_s: float,
        step_timeout_s: float,
    ) -> None:
        self.members: dict[int, Member] = {}
        self.lease_s = lease_s
        self._step_s = step_timeout_s
        self._launcher = launcher
        self._spec_of = spec_of
        self._audience = audience
        self._clock = clock
        self._loop = asyncio.get_running_loop()
        self._host = host_name()
        self._hub = Hub(launcher.endpoint, self._deliver)
        self._endpoint = launcher.reachable(self._hub.bound)
        self._by_address: dict[bytes, Member] = {}
        self._dying: list[Handle] = []
        self._ticked_s = clock.now_s()
        self._closed = False

    @property
    def busy_s(self) -> float:
        """Processor time spent on what replicas have told."""
        return self._hub.busy_s

    # Members

    def check(self, member_id: int) -> None:
        """Check that there could be such a member.

        Raises:
            ValueError: there is no device for it.
        """
        self._spec_of(member_id)

    def add(self, member_id: int) -> Member:
        """A new member, whose process starts now.

        Raises:
            ValueError: there is no device for it.
        """
        self.check(member_id)
        member = self.members[member_id] = Member(member_id)
        self._start(member)
        self._pace()
        return member

    def remove(self, member: Member) -> None:
        """Tell a member's process to end, and start none again."""
        member.is_wanted = False
        if member.life is None:
            self._gone(member)
        else:
            self.stop(member)

    def stop(self, member: Member) -> None:
        """Tell its process to end; a wanted member is started again at once."""
        assert member.life is not None
        member.phase = "stopping"
        member.retry_s = self._clock.now_s() + STOP_S
        member.order(Stop())
        self.flush(member)

    def ready(self) -> list[Member]:
        """Those that take requests."""
        return [member for member in self.members.values() if member.phase == "ready"]

    def flush(self, member: Member) -> None:
        """Send what a member was ordered."""
        life = member.life
        orders = None if life is None else life.flushed(self._clock.now_s())
        if orders is None:
            return
        if not self._hub.send(member.to("main"), orders):
            self.lose(member, "it reads no orders", "unreachable")

    def lose(self, member: Member, why: str, cause: str) -> None:
        """Take its process for dead: kill it, and start another when it is time."""
        life, now_s = member.life, self._clock.now_s()
        if life is None:
            return
        asked = member.phase == "stopping"
        life.is_silent = cause == "lease"
        self._end(member, life)
        member.last_death = life.failure or ("it was told to end" if asked else why)
        if not asked:
            member.deaths[cause] = member.deaths.get(cause, 0) + 1
        if not member.is_wanted or self._closed:
            self._gone(member)
        elif asked:
            member.phase, member.retry_s = "resting", now_s
        else:
            self._rest(member, life, now_s)
        self._audience.on_lost(member, life, is_death=not asked)

    def tick(self) -> None:
        """Look after all of them; to be called several times per lease."""
        now_s = self._clock.now_s()
        if now_s < self._ticked_s + min(LOOK_S, self.lease_s / 8):
            return
        late_s, self._ticked_s = now_s - self._ticked_s, now_s
        self._hub.drain()
        self._bury()
        if late_s > self.lease_s / 2:  # it is the parent that was away: nobody could be heard
            for member in self.members.values():
                if member.life is not None:
                    member.life.heard_s = max(member.life.heard_s, now_s - self.lease_s / 2)
        for member in list(self.members.values()):
            self._look_after(member, now_s)

    def close(self) -> None:
        """End all processes; waits for them, a few seconds at most."""
        self._closed = True
        lives = [(m, m.life) for m in self.members.values() if m.life is not None]
        for member, _ in lives:
            if member.phase not in ("starting", "stopping"):
                self.stop(member)
        handles = [life.handle for _, life in lives if life.handle is not None]
        wait_all(handles, STOP_S if lives else 0.0)
        for member, life in lives:
            self._end(member, life)
            member.phase = "stopped"
        wait_all(self._dying, KILL_S)
        self._bury()
        self._hub.close()
        self._launcher.close()

    # Their processes

    def _start(self, member: Member) -> None:
        now_s = self._clock.now_s()
        member.epoch += 1
        member.starts += 1
        member.phase, member.loading = "starting", ""
        life = member.life = Life(member.epoch, new_token(), now_s, heard_s=now_s)
        spec = self._spec_of(member.id).begun(
            member.epoch, life.token, self._endpoint, self._hub.key
        )
        member.device = spec.engine.device
        for channel in ("main", "beat"):
            self._by_address[member.to(channel)] = member
        try:
            handle = life.handle = self._launcher.start(spec)
        except OSError as error:
            self.lose(member, f"it can't be started: {error}", "unstartable")
            return
        if handle.exit_fd is not None:
            self._loop.add_reader(handle.exit_fd, self._on_exit, member, life)

    def _on_exit(self, member: Member, life: Life) -> None:
        """The process of a life has ended."""
        handle = life.handle
        if handle is None or handle.alive() or member.life is not life:
            return
        self._hub.drain()  # its last words
        for other in self.members.values():  # a machine that dies takes several along
            if other.life and other.life.handle and not other.life.handle.alive():
                self._audience.on_doomed(other)
        if member.life is life:
            self.lose(member, handle.why() or "it has ended", "exit")

    def _end(self, member: Member, life: Life) -> None:
        """Nothing that a life says counts any more."""
        member.life = None
        for channel in ("main", "beat"):
            self._by_address.pop(member.to(channel), None)
        handle = life.handle
        if handle is not None:
            if handle.exit_fd is not None:
                self._loop.remove_reader(handle.exit_fd)
            handle.kill()
            self._dying.append(handle)
            self._bury()

    def _bury(self) -> None:
        """Let go of those whose end has come."""
        for handle in [handle for handle in self._dying if not handle.alive()]:
            self._dying.remove(handle)
            handle.close()

    def _rest(self, member: Member, life: Life, now_s: float) -> None:
        ready_for_s = None if life.ready_s is None else now_s - life.ready_s
        wait_s = member.backoff.died(ready_for_s)
        member.retry_s = now_s + wait_s
        member.phase = "open" if member.backoff.is_open else "resting"
        if member.backoff.is_open:
            logger.error(
                "replica %d has died %d times in a row (last: %s): it is left alone for %g s",
                *(member.id, member.backoff.deaths, member.last_death, wait_s),
            )
        else:
            logger.warning(
                "replica %d is lost (%s): another process takes its place in %.2f s",
                *(member.id, member.last_death, wait_s),
            )

    def _gone(self, member: Member) -> None:
        member.phase = "stopped"
        self.members.pop(member.id, None)
        self._pace()

    def _look_after(self, member: Member, now_s: float) -> None:
        life = member.life
        if life is None:
            if member.phase in ("resting", "open") and now_s >= member.retry_s:
                self._start(member)
            return
        handle = life.handle
        if handle is not None and handle.exit_fd is None and not handle.alive():
            self._on_exit(member, life)
            return
        if handle is not None and not life.is_known and member.phase == "starting":
            self._await(member, life, handle.waits_for(), now_s)
        if member.phase == "stopping" and now_s > member.retry_s:
            self.lose(member, "it did not end when told to", "stop")
            return
        why = overdue(life, now_s, self.lease_s, self._step_s)
        if why is not None:
            self.lose(member, why, "lease")
            return
        if life.ready_s is not None and member.backoff.is_well(now_s - life.ready_s):
            logger.warning("replica %d is well again", member.id)

    @staticmethod
    def _await(member: Member, life: Life, what: str, now_s: float) -> None:
        """A process that could not begin yet may be silent."""
        if what:
            life.heard_s = now_s
        if member.loading != what and now_s - life.started_s > SOON_S:
            member.loading = what
            if what:
                logger.warning("replica %d waits for %s", member.id, what)

    @property
    def _snapshot_s(self) -> float:
        """How often each may send a snapshot, so that all together don't drown the parent."""
        return max(QUICKEST_S, len(self.members) / SNAPSHOTS_PER_S)

    def _pace(self) -> None:
        for member in self.members.values():
            if member.life is not None and member.life.ready_s is not None:
                member.order(Pace(self._snapshot_s))
                self.flush(member)

    def _send(self, member: Member, message: Message) -> None:
        self._hub.send(member.to("main"), message)

    # What they say

    def _deliver(self, sender: bytes, data: bytes) -> None:
        member = self._by_address.get(sender)
        try:
            message = to_parent(data)
            if isinstance(message, Hello):
                check_version(message)
        except ProtocolError as error:
            self._misunderstood(sender, member, str(error))
            return
        if member is None or member.life is None or message.epoch != member.epoch:
            if isinstance(message, Hello):
                self._hub.send(sender, Unwelcome(message.epoch, "this replica has a successor"))
            return
        life, now_s = member.life, self._clock.now_s()
        if isinstance(message, Hello):
            if not life.is_known:
                self._greet(member, life, message, now_s)
            return
        if not life.is_known:
            return  # it has not introduced itself
        life.heard_s = now_s
        if isinstance(message, News):
            for news in life.news.take(message.number, message, now_s):
                self._hear(member, life, news)
        elif isinstance(message, Beat):
            self._beat(member, life, message, now_s)
        elif isinstance(message, Ready) and life.ready is None:
            self._ready(member, life, message, now_s)
        elif isinstance(message, Loading):
            member.loading = message.phase
        elif isinstance(message, Failed):
            life.failure, life.is_mendable = message.reason, message.is_mendable
            self._audience.on_failed(member, message.reason, message.is_mendable)
        else:
            assert isinstance(message, Bye | Ready)

    def _misunderstood(self, sender: bytes, member: Member | None, reason: str) -> None:
        logger.error("%s: %s", sender.decode(errors="replace"), reason)
        if member is None or member.life is None:
            return
        self._hub.send(sender, Unwelcome(member.epoch, reason))
        member.life.failure, member.life.is_mendable = reason, True
        self._audience.on_failed(member, reason, True)

    def _greet(self, member: Member, life: Life, hello: Hello, now_s: float) -> None:
        if hello.token != life.token or hello.replica != member.id:
            logger.error("a process that is not replica %d speaks for it: not heard", member.id)
            return
        life.heard_s, life.is_known = now_s, True
        member.phase = "loading"
        is_here = hello.host == self._host
        self._send(
            member,
            Welcome(life.epoch, None if is_here else now_s, self.lease_s, self._snapshot_s, WINDOW),
        )

    def _ready(self, member: Member, life: Life, ready: Ready, now_s: float) -> None:
        life.ready, life.ready_s = ready, now_s
        member.phase, member.loading = "ready", ""
        self._audience.on_ready(member)

    def _hear(self, member: Member, life: Life, news: News) -> None:
        if member.life is not life:
            return  # lost by what it said before
        life.obeyed(news.heard)
        if life.behind_s is not None and life.beat is not None:
            life.behind_s = None
        if news.state is not None:
            life.state = news.state
        ack = life.ack()
        if ack is not None:
            self._send(member, ack)
        self._audience.on_news(member, news)

    def _beat(self, member: Member, life: Life, beat: Beat, now_s: float) -> None:
        life.beat = beat
        life.obeyed(beat.heard)
        if beat.sent <= life.news.last:
            life.behind_s = None
        elif life.behind_s is None:
            life.behind_s = now_s
        if now_s - life.answered_s > self.lease_s:
            life.answered_s = now_s
            self._hub.send(member.to("beat"), Pong(life.epoch))


def counts(members: Mapping[int, Member]) -> dict[str, int]:
    """How many members are in each phase, the empty ones left out."""
    found: dict[str, int] = {}
    for member in members.values():
        found[member.phase] = found.get(member.phase, 0) + 1
    return found
