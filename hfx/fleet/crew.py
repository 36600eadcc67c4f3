"""A fleet's replicas: they join, die and come back; what is known of them.

For the event loop's thread. Seconds on this process's clock.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import time
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial

from hfx.clock import Clock, MonotonicClock
from hfx.config import EngineConfig, FleetConfig
from hfx.cost.profile import loads
from hfx.engine.delta import Delta
from hfx.engine.live_cost import Origin
from hfx.engine.observe import StepObserver
from hfx.scheduler.dispatch import SlackDispatcher
from hfx.scheduler.dispatch_names import build_dispatcher
from hfx.scheduler.dispatch_view import Dispatcher

from .desk import Desk
from .flight import Flight
from .launch import Launcher, LocalLauncher
from .member import Life, Member
from .messages import News, State
from .oracle import Oracle
from .placing import placed
from .prices import FleetCost
from .records import record_of
from .roster import Roster, counts
from .spec import ReplicaSpec, Specs
from .standing import Standing

logger = logging.getLogger(__name__)

TICK_S = 0.02  # while there is work; four times as long while there is none
FIRST_READY_S = 30.0  # that a start waits for others once one replica is ready
SLOW = 3.0  # times the time of its profile: then a replica is said to be slow
RETRY_S = 5.0  # where nobody knows how soon a replica is ready


class Crew:
    """Replicas under a dispatcher. `spec_of` says how each is started; tests give their own."""

    def __init__(
        self,
        config: FleetConfig,
        engine: EngineConfig,
        *,
        launcher: Launcher | None = None,
        spec_of: Specs | None = None,
        clock: Clock | None = None,
    ) -> None:
        self.clock: Clock = clock or MonotonicClock()
        self._config = config
        self._engine = engine
        self._loop = asyncio.get_running_loop()
        self._wanted = config.replicas
        self._roster = Roster(
            launcher or LocalLauncher(),
            spec_of or self._place,
            self,
            self.clock,
            lease_s=config.lease_s,
            step_timeout_s=config.step_timeout_s,
        )
        self._desk = Desk(
            self.clock,
            hold_s=config.hold_s,
            flush=self._roster.flush,
            ended=self._on_end,
            breach=lambda member, why: self._roster.lose(member, why, "breach"),
            make_dispatcher=self._dispatcher_for,
            retry_s=self._retry_s,
            later=self._loop.call_later,
        )
        self._oracle = Oracle(engine.scheduler)
        self._numbers = itertools.count(1)
        self._observers: list[StepObserver] = []
        self._cost: FleetCost | None = None
        self._max_model_len = 0
        self._changed = asyncio.Event()  # something became of a replica
        self._failures: deque[tuple[str, bool]] = deque(maxlen=16)  # processes' last words
        self._closed = False
        self._busy_s = 0.0
        self._ticker: asyncio.TimerHandle | None = None

    async def start(self, progress: Callable[[str, float], None] | None = None) -> None:
        """See `launch`."""
        for replica_id in range(self._wanted):
            self._roster.add(replica_id)
        self._tick()
        ready_s: float | None = None
        while True:
            ready = len(self._roster.ready())
            self._check_start(ready)
            if ready and ready_s is None:
                ready_s = self.clock.now_s()
            if ready == len(self._roster.members):
                return
            if ready_s is not None and self.clock.now_s() - ready_s > FIRST_READY_S:
                return
            if progress is not None:
                progress(f"starting {self._wanted} replicas", ready / self._wanted)
            self._changed.clear()
            try:
                await asyncio.wait_for(self._changed.wait(), 1.0)
            except TimeoutError:
                continue

    def _check_start(self, ready: int) -> None:
        mendable = next((reason for reason, is_mendable in self._failures if is_mendable), None)
        if mendable is not None:
            raise ValueError(mendable)
        members = self._roster.members.values()
        if not ready and all(member.phase == "open" for member in members):
            raise ValueError(f"no replica comes up: {next(iter(members)).last_death}")

    @property
    def members(self) -> Sequence[Member]:
        """All replicas, in order of their ids; to look at."""
        return [member for _, member in sorted(self._roster.members.items())]

    @property
    def desk(self) -> Desk:
        """Where requests are; to look at."""
        return self._desk

    @property
    def busy_s(self) -> float:
        """Processor time that this process has spent on replicas: messages, decisions, metrics."""
        return self._busy_s + self._roster.busy_s

    def phases(self) -> dict[str, int]:
        """How many replicas are in each phase."""
        return counts(self._roster.members)

    @property
    def max_step_tokens(self) -> int:
        """Most tokens that one step of one replica computes."""
        return self._engine.scheduler.max_num_batched_tokens

    # What replicas tell: the roster's audience

    def on_ready(self, member: Member) -> None:
        """See `Audience`."""
        life = member.life
        assert life is not None and life.ready is not None
        ready = life.ready
        profile = None if ready.profile is None else loads(ready.profile)
        life.standing = Standing(
            member.id,
            profile,
            ready.total_blocks,
            ready.block_tokens,
            max_step_tokens=self.max_step_tokens,
            prefix_caching=ready.prefix_caching,
            now_s=self.clock.now_s(),
            flight_of=self._desk.flights.get,
        )
        if self._cost is None and profile is not None:
            self._cost = FleetCost(profile, Origin(*ready.origin))
        known = self._max_model_len
        self._max_model_len = min(known or ready.max_model_len, ready.max_model_len)
        logger.info("replica %d is ready (epoch %d)", member.id, member.epoch)
        self._changed.set()
        if member.is_drained:
            member.phase = "draining"
        else:
            self._desk.join(member)

    def on_news(self, member: Member, news: News) -> None:
        """See `Audience`."""
        if member.standing is None:
            return
        self._desk.hear(member, news)
        if news.state is not None:
            self._learn(member, news.state)

    def on_doomed(self, member: Member) -> None:
        """See `Audience`."""
        self._desk.shun(member)

    def on_lost(self, member: Member, life: Life, *, is_death: bool) -> None:
        """See `Audience`."""
        self._changed.set()
        member.is_slow = False
        if life.standing is not None:
            self._desk.lost(member, life, is_death=is_death)

    def on_failed(self, member: Member, reason: str, is_mendable: bool) -> None:
        """See `Audience`."""
        self._failures.append((reason, is_mendable))
        self._changed.set()

    def _learn(self, member: Member, state: State) -> None:
        """From a snapshot: prices, and what observers want to know of steps."""
        standing = member.standing
        if standing is None:
            return
        if self._cost is not None and member is self.members[0]:
            self._cost.hear(standing.cost, state.decode, state.mixed)
        if self._observers:
            for row in state.rows:
                record = record_of(row, state, standing.view.total_blocks)
                for observer in self._observers.copy():
                    self._tell(observer, partial(observer.on_step, record))
        is_slow = standing.factor >= SLOW
        if is_slow is not member.is_slow:
            member.is_slow = is_slow
            logger.warning(
                "replica %d takes %.1f times as long as its profile says: it %s",
                *(member.id, standing.factor, "gets less work" if is_slow else "has recovered"),
            )

    # Itself

    def _on_end(self, flight: Flight, last: Delta) -> None:
        assert last.finish_reason is not None
        self._oracle.ended(flight.request, last.output_tokens, last.finish_reason)
        for observer in self._observers.copy():
            self._tell(observer, partial(observer.on_finish, last))

    def _tell(self, observer: StepObserver, news: Callable[[], None]) -> None:
        """Tell an observer; one that fails is heard of in the log, and told nothing more."""
        try:
            news()
        except Exception:
            logger.exception("observer %r failed and is told nothing more", observer)
            self._observers.remove(observer)

    async def _until(self, is_so: Callable[[], bool], timeout_s: float) -> bool:
        """Wait until something is so; whether it is."""
        until_s = self.clock.now_s() + timeout_s
        while not is_so():
            left_s = until_s - self.clock.now_s()
            if left_s <= 0:
                return False
            await asyncio.sleep(min(TICK_S, left_s))
        return True

    def _tick(self) -> None:
        if self._closed:
            return
        began_s = time.thread_time()
        self._roster.tick()
        self._desk.tick()
        self._busy_s += time.thread_time() - began_s
        wait_s = TICK_S if self._desk.flights else 4 * TICK_S
        self._ticker = self._loop.call_later(wait_s, self._tick)

    def _dispatcher_for(self, member: Member) -> Dispatcher:
        name = self._config.dispatch
        if name == "hfx" and member.standing is not None and member.standing.profile is None:
            logger.info("dispatch is least_loaded: hfx decides by prices, and cost_profile is off")
            name = "least_loaded"
        if (
            name == "hfx"
        ):  # a replica begins its next step before it has heard of the last one's end
            return SlackDispatcher(binds_early=True)
        return build_dispatcher(name, self._engine.model.seed)

    def _retry_s(self) -> float:
        """How soon a replica may be ready again."""
        now_s = self.clock.now_s()
        waits = [m.retry_s - now_s for m in self.members if m.phase in ("resting", "open")]
        return RETRY_S + max(0.0, min(waits, default=0.0))

    def _place(self, replica_id: int) -> ReplicaSpec:
        return placed(replica_id, self._wanted, self._config, self._engine)

    def _member(self, replica_id: int) -> Member:
        if replica_id not in self._roster.members:
            known = ", ".join(map(str, sorted(self._roster.members)))
            raise ValueError(f"there is no replica {replica_id}: there are {known}")
        return self._roster.members[replica_id]
