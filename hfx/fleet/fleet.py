"""Many replicas behind the interface of one engine: requests in, deltas out, whichever of them die.

For the event loop's thread where nothing else is said. Seconds on this process's clock.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from hfx.clock import Clock
from hfx.config import EngineConfig, FleetConfig
from hfx.engine.compilations import COMPILATIONS
from hfx.engine.engine import check_request, seed_of
from hfx.engine.errors import (
    EngineDead,
    EngineDraining,
    EngineFull,
    EngineNotReady,
    Infeasible,
)
from hfx.engine.forecast import Outlook
from hfx.engine.observe import EngineStats, StepObserver
from hfx.engine.stream import DeltaStream, Mailbox
from hfx.request import FinishReason, Refused, Request

from .flight import Flight
from .launch import Launcher
from .launchers import launcher_for
from .operated import Operated
from .prices import FleetCost
from .records import summed
from .spec import Specs
from .standing import Standing

if TYPE_CHECKING:
    from hfx.models import Words

logger = logging.getLogger(__name__)

ABORT_TIMEOUT_S = 5.0


class Fleet(Operated):
    """A `Service` over replicas. Make one by `launch`, in the event loop that will use it."""

    def __init__(
        self,
        config: FleetConfig,
        engine: EngineConfig,
        words: Words,
        *,
        launcher: Launcher | None = None,
        spec_of: Specs | None = None,
        clock: Clock | None = None,
    ) -> None:
        super().__init__(config, engine, launcher=launcher, spec_of=spec_of, clock=clock)
        self.model = words
        self._draining = False

    @classmethod
    async def launch(
        cls,
        config: FleetConfig,
        engine: EngineConfig,
        *,
        progress: Callable[[str, float], None] | None = None,
        launcher: Launcher | None = None,
        spec_of: Specs | None = None,
    ) -> Fleet:
        """Start all replicas, and wait until they are ready: one at least, the others for a while.

        Raises:
            ValueError: a setting is impossible, as a replica says; or none of them comes up.
        """
        if progress is not None:
            progress("reading the model's words", 0.0)
        words = await asyncio.to_thread(_words, engine)
        if launcher is None:
            launcher, specs = await launcher_for(config, engine, progress)
            spec_of = spec_of or specs
        fleet = cls(config, engine, words, launcher=launcher, spec_of=spec_of)
        try:
            await fleet.start(progress)
        except BaseException:
            fleet.close()
            raise
        return fleet

    @property
    def max_model_len(self) -> int:
        """Most tokens of prompt and output together, that every replica can hold."""
        return self._max_model_len

    @property
    def cost(self) -> FleetCost | None:
        """The prices of the first replica that was ready; None where it has none."""
        return self._cost

    @property
    def is_healthy(self) -> bool:
        """Whether it can serve, now or once a replica is back."""
        return not self._closed

    @property
    def is_draining(self) -> bool:
        """Whether it refuses new requests because it is about to stop."""
        return self._draining

    def stats(self) -> EngineStats:
        """All replicas together, as of their last snapshots."""
        return summed(self.members, self._desk.waiting)

    def compilations(self) -> Mapping[str, int]:
        """Kernels that live replicas have compiled, by phase."""
        found = dict.fromkeys(COMPILATIONS.counts, 0)
        for member in self.members:
            state = None if member.life is None else member.life.state
            for phase, count in (state.compilations if state else {}).items():
                found[phase] = found.get(phase, 0) + count
        return found

    def add_observer(self, observer: StepObserver) -> None:
        """Tell an observer about steps and ends of all replicas from now on, in the loop."""
        self._observers.append(observer)

    def generate(self, request: Request, *, foresee: bool = False) -> DeltaStream:
        """See `AsyncEngine.generate`.

        Raises:
            EngineNotReady: no replica is ready, and as many wait as may.
            EngineFull, EngineDraining, EngineDead, ValueError: as there.
        """
        self._check_admits(request)
        return self._begin(request, foresee=foresee)

    async def admit(self, requests: Sequence[Request]) -> list[DeltaStream]:
        """See `AsyncEngine.admit`; the parent itself answers, by its view of the replicas.

        Raises:
            Infeasible: no replica can keep the promise of one that would rather be refused.
            EngineFull, EngineNotReady, EngineDraining, EngineDead, ValueError: as `generate`.
        """
        for request in requests:
            self._check_admits(request)
            if request.objective.on_miss == "refuse":
                refused = self._answer(request)
                if refused is not None:
                    raise Infeasible(refused)
        streams: list[DeltaStream] = []
        try:
            for request in requests:
                streams.append(self._begin(request, foresee=False))
                self._check_kept(streams[-1])
        except BaseException:
            for stream in streams:
                stream.close()
            raise
        return streams

    async def foresee(self, request: Request) -> tuple[Outlook | None, Refused | None]:
        """See `AsyncEngine.foresee`."""
        self._check_takes(request)
        standings = self._standings()
        queue = [flight.live for flight in self._desk.unbound]
        outlook = self._oracle.outlook(request, standings, queue, self.clock.now_s())
        return outlook, self._answer(request)

    def abort(self, request_id: str) -> None:
        """See `AsyncEngine.abort`; from any thread."""
        self._loop.call_soon_threadsafe(self._abort, request_id)

    async def drain(self, timeout_s: float) -> None:
        """See `AsyncEngine.drain`."""
        self._draining = True
        self.stop_changing()
        if await self._ended_within(timeout_s):
            return
        left = list(self._desk.flights.values())
        logger.warning("aborting %d requests that outlast the %g s to drain", len(left), timeout_s)
        for flight in left:
            self._desk.drop(flight, FinishReason.ABORT)
        await self._ended_within(ABORT_TIMEOUT_S)

    def close(self) -> None:
        """End all replicas; live requests end with an error. Waits for processes to end."""
        if self._closed:
            return
        self._closed = True
        self.stop_changing()
        if self._ticker is not None:
            self._ticker.cancel()
        for flight in list(self._desk.flights.values()):
            flight.fail(EngineDead("the fleet was closed"))
        self._roster.close()

    def leave(self, mailbox: Mailbox) -> None:
        """See `Owner`."""
        assert isinstance(mailbox, Flight)
        self._desk.drop(mailbox, FinishReason.ABORT)

    def lose(self, mailbox: Mailbox) -> None:
        """See `Owner`."""
        assert isinstance(mailbox, Flight)
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._desk.drop, mailbox, FinishReason.ABORT)

    def _begin(self, request: Request, *, foresee: bool) -> DeltaStream:
        began_s = time.thread_time()
        number = next(self._numbers)
        now_s = self.clock.now_s()
        if not request.arrival_s:
            request = replace(request, arrival_s=now_s)
        seed = seed_of(request.sampling.seed, self._engine.model.seed, number)
        flight = Flight(request, number, seed, now_s, foresee=foresee)
        stream = DeltaStream(flight, self)
        self._desk.take(flight)
        self._busy_s += time.thread_time() - began_s
        return stream

    @staticmethod
    def _check_kept(stream: DeltaStream) -> None:
        """Raise what the dispatcher has answered at once instead of taking a request."""
        failure = stream.failure
        if isinstance(failure, Infeasible):
            raise failure

    def _abort(self, request_id: str) -> None:
        flight = self._desk.flights.get(request_id)
        if flight is not None:
            self._desk.drop(flight, FinishReason.ABORT)

    def _answer(self, request: Request) -> Refused | None:
        standings = self._standings()
        queue = [flight.live for flight in self._desk.unbound]
        return self._oracle.answer(request, standings, queue, self.clock.now_s())

    def _standings(self) -> list[Standing]:
        return [member.standing for member in self._desk.ready if member.standing is not None]

    def _check_takes(self, request: Request) -> None:
        if self._closed:
            raise EngineDead("the fleet was closed")
        if self._draining:
            raise EngineDraining("the fleet is about to stop and takes no new requests")
        check_request(request, self.model.vocabulary, self._max_model_len)

    def _check_admits(self, request: Request) -> None:
        self._check_takes(request)
        desk, limits = self._desk, self._engine.scheduler
        if request.id in desk.flights:
            raise ValueError(f"request id {request.id!r} is in use: ids of live requests differ")
        limit = limits.max_num_queued_reqs
        ready = len(desk.ready)
        if not ready and desk.held >= limit:
            raise EngineNotReady(
                f"no replica is ready, and {desk.held} requests wait for one", self._retry_s()
            )
        queued = max(len(desk.flights) - ready * limits.max_num_seqs, desk.waiting)
        if ready and queued >= limit:
            raise EngineFull(
                f"{queued} requests are waiting, at most {limit} may (max_num_queued_reqs): "
                "try again later",
                desk.end_every_s,
            )

    async def _ended_within(self, timeout_s: float) -> bool:
        return await self._until(lambda: not self._desk.flights, timeout_s)


def _words(engine: EngineConfig) -> Words:
    from hfx.engine.emulate import bounded
    from hfx.models import load_words

    words = load_words(engine.model)
    return words if engine.emulated_profile is None else bounded(words)
