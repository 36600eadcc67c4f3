"""An engine in a thread of its own, read from an event loop.

The loop sends commands through a queue; the thread obeys them between two steps and hands the news
of a step over in one call, so that neither ever waits for the other. Times are seconds.
"""

import asyncio
import logging
import queue
import threading
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from hfx.clock import Clock
from hfx.config import EngineConfig, SchedulerConfig
from hfx.request import Refused, Request

from .compilations import COMPILATIONS
from .delta import Delta
from .engine import Engine
from .errors import EngineDead, EngineDraining, EngineFull, Infeasible
from .forecast import Outlook
from .live_cost import LiveCost
from .observe import EngineStats, StepObserver
from .outbox import News, Outbox
from .stream import DeltaStream, Mailbox

if TYPE_CHECKING:
    from hfx.models import Words

T = TypeVar("T")

logger = logging.getLogger(__name__)

STALL_S = 0.001  # how long to wait for commands when the policy lets nothing run
# Of requests that come together; the last knows of all others. Each answer looks at the whole load,
# and running streams wait meanwhile.
MOST_ANSWERS = 8
ABORT_TIMEOUT_S = 30.0  # aborted requests end with the step that is running


class AsyncEngine:
    """Serves many readers at once. Its methods are for the event loop's thread where no other is
    named, and all its live requests belong to one loop.

    `model` is what was loaded, or None over an executor that needs no model.
    """

    def __init__(
        self,
        engine: Engine,
        model: "Words | None" = None,
        limits: SchedulerConfig | None = None,
    ) -> None:
        self._engine = engine
        self._model = model
        self._limits = limits or SchedulerConfig()
        self._commands: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._mailboxes: dict[str, Mailbox] = {}  # the loop's: of live requests
        self._readers: dict[str, tuple[Mailbox, Outbox]] = {}  # the thread's: likewise
        self._outbox: Outbox | None = None
        self._questions: set[asyncio.Future[Any]] = set()  # the loop's: not yet answered
        self._emptied = asyncio.Event()
        self._draining = False
        self._stopping = False
        self._stalled = False
        self._death: str | None = None
        self._thread = threading.Thread(target=self._run, name="hfx-engine", daemon=True)
        self._thread.start()
        if engine.company is not None:
            engine.company.on_loss(lambda error: self._commands.put(partial(_die, error)))

    @classmethod
    def launch(
        cls, config: EngineConfig, *, progress: Callable[[str, float], None] | None = None
    ) -> "AsyncEngine":
        """Load the model, size the cache and start; takes seconds, and any thread may call it.

        Raises:
            ValueError: a setting is impossible; the message says which and what to do.
        """
        from .launch import build_engine  # here: an engine over another executor needs no model

        engine, model = build_engine(config, progress)
        return cls(engine, model, config.scheduler)

    @property
    def model(self) -> "Words":
        """The model that it serves."""
        assert self._model is not None, "this engine runs without a model"
        return self._model

    @property
    def max_model_len(self) -> int:
        """Most tokens of prompt and output together."""
        return self._engine.max_model_len

    @property
    def max_step_tokens(self) -> int:
        """Most tokens that one step computes."""
        return self._limits.max_num_batched_tokens

    @property
    def clock(self) -> Clock:
        """The clock of all times that it reports, and of `Request.arrival_s`."""
        return self._engine.clock

    @property
    def cost(self) -> LiveCost | None:
        """What predicts and learns from its steps; its `snapshot` is for any thread."""
        return self._engine.cost

    @property
    def is_healthy(self) -> bool:
        """Whether its thread is able to compute; true while draining."""
        return self._death is None and not self._stopping and self._thread.is_alive()

    @property
    def is_draining(self) -> bool:
        """Whether it refuses new requests because it is about to stop."""
        return self._draining

    def stats(self) -> EngineStats:
        """The engine at a glance; from any thread, and up to one step old."""
        return self._engine.stats()

    def compilations(self) -> Mapping[str, int]:
        """Kernels that were compiled, by phase."""
        return COMPILATIONS.counts

    def add_observer(self, observer: StepObserver) -> None:
        """Tell an observer, in the engine's thread, about steps and ends from now on."""
        self._commands.put(lambda: self._engine.add_observer(observer))

    def generate(self, request: Request, *, foresee: bool = False) -> DeltaStream:
        """Admit a request; iterate over the answer for its deltas, close or cancel to abort.

        To `foresee` is to keep what it could expect although it was promised nothing.

        Raises:
            EngineFull: the queue is as long as it may get.
            EngineDraining: the engine is about to stop.
            EngineDead: it has stopped.
            ValueError: see `Engine.check`; or a live request has the same id.
        """
        self._check_admits(request)
        outbox = self._outbox_of(asyncio.get_running_loop())
        mailbox = self._mailboxes[request.id] = Mailbox(request.id)
        heard_s = self.clock.now_s()
        self._commands.put(lambda: self._add(request, mailbox, outbox, heard_s, foresee))
        return DeltaStream(mailbox, self)

    async def admit(self, requests: Sequence[Request]) -> list[DeltaStream]:
        """Admit all of them or none, once the engine has said that it can keep their promises.

        It says so between two steps, so that this may take as long as a step.

        Raises:
            Infeasible: it can't keep one that would rather be refused.
            EngineFull, EngineDraining, EngineDead, ValueError: as `generate`.
        """
        streams: list[DeltaStream] = []
        try:
            for request in requests:
                self._check_admits(request)
                mailbox = self._mailboxes[request.id] = Mailbox(request.id)
                streams.append(DeltaStream(mailbox, self))
            mailboxes = [self._mailboxes[request.id] for request in requests]
            heard_s = self.clock.now_s()
            refused = await self._ask(
                lambda outbox: self._admit(requests, mailboxes, outbox, heard_s)
            )
            if refused is not None:
                raise Infeasible(refused)
        except BaseException:
            for stream in streams:
                stream.close()
            raise
        return streams

    async def foresee(self, request: Request) -> tuple[Outlook | None, Refused | None]:
        """What a request could expect if it came now, which it does not, and why its promise could
        not be kept. Without prices nothing is known and nothing refused.

        Raises:
            EngineDraining, EngineDead, ValueError: as `generate`.
        """
        self._check_takes(request)
        engine = self._engine
        return await self._ask(lambda _: (engine.outlook(request), engine.answer(request)))

    def abort(self, request_id: str) -> None:
        """End a request; its reader gets a last delta that says so. Nothing if it has ended.

        From any thread.
        """
        self._commands.put(lambda: self._abort(request_id))

    async def drain(self, timeout_s: float) -> None:
        """Refuse new requests, let the live ones end, and abort those left after the timeout."""
        self._draining = True
        if await self._ended_within(timeout_s):
            return
        logger.warning(
            "aborting %d requests that outlast the %g s given to drain",
            len(self._mailboxes),
            timeout_s,
        )
        for request_id in self._mailboxes:
            self.abort(request_id)
        await self._ended_within(ABORT_TIMEOUT_S)

    def close(self) -> None:
        """Stop the thread after the step that is running; live requests end as aborted.

        From any thread but its own.
        """
        self._commands.put(self._stop)
        self._thread.join()
        self._engine.close()
        self._fail_readers(EngineDead("the engine was closed"))

    def leave(self, mailbox: Mailbox) -> None:
        """See `Owner`."""
        self.abort(mailbox.request_id)
        self._discard(mailbox)

    def lose(self, mailbox: Mailbox) -> None:
        """See `Owner`."""
        self.abort(mailbox.request_id)
        if self._outbox is not None:
            self._outbox.call(lambda: self._discard(mailbox))

    def _check_takes(self, request: Request) -> None:
        if not self.is_healthy:
            raise EngineDead(f"the engine has stopped: {self._death or 'it was closed'}")
        if self._draining:
            raise EngineDraining("the engine is about to stop and takes no new requests")
        self._engine.check(request)

    def _check_admits(self, request: Request) -> None:
        self._check_takes(request)
        if request.id in self._mailboxes:
            raise ValueError(f"request id {request.id!r} is in use: ids of live requests differ")
        queued = max(len(self._mailboxes) - self._limits.max_num_seqs, self._engine.waiting)
        limit = self._limits.max_num_queued_reqs
        if queued >= limit:
            raise EngineFull(
                f"{queued} requests are waiting, at most {limit} may (max_num_queued_reqs): "
                "try again later",
                self._engine.room_s,
            )

    async def _ask(self, question: Callable[[Outbox], T]) -> T:
        """What `question` returns in the engine's thread, between two steps."""
        loop = asyncio.get_running_loop()
        outbox = self._outbox_of(loop)
        answer: asyncio.Future[T] = loop.create_future()

        def ask() -> None:
            try:
                result = question(outbox)
            except Exception as error:
                outbox.call(partial(_settle, answer.set_exception, error, answer))
            else:
                outbox.call(partial(_settle, answer.set_result, result, answer))

        self._questions.add(answer)
        try:
            self._commands.put(ask)
            return await answer
        finally:
            self._questions.discard(answer)

    def _outbox_of(self, loop: asyncio.AbstractEventLoop) -> Outbox:
        if self._outbox is None or self._outbox.loop is not loop:
            assert self._outbox is None or self._outbox.loop.is_closed() or not self._mailboxes, (
                "another event loop has live requests of this engine"
            )
            self._mailboxes.clear()  # of a closed loop: their readers are gone
            self._outbox = Outbox(loop, self._deliver)
        return self._outbox

    async def _ended_within(self, timeout_s: float) -> bool:
        if not self._mailboxes:
            return True
        self._emptied = asyncio.Event()
        try:
            await asyncio.wait_for(self._emptied.wait(), timeout_s)
        except TimeoutError:
            return False
        return True

    def _discard(self, mailbox: Mailbox) -> None:
        if self._mailboxes.get(mailbox.request_id) is mailbox:
            del self._mailboxes[mailbox.request_id]
        if not self._mailboxes:
            self._emptied.set()

    def _deliver(self, news: News) -> None:
        """In the loop: hand a step's news to its readers."""
        for mailbox, delta in news.items():
            mailbox.put(delta)
            if delta.finish_reason is not None:
                self._discard(mailbox)

    def _fail_readers(self, error: EngineDead) -> None:
        """Let every reader know, after what it was told before; from any thread."""

        def fail() -> None:
            for mailbox in list(self._mailboxes.values()):
                mailbox.fail(error)
                self._discard(mailbox)
            for answer in self._questions:
                _settle(answer.set_exception, error, answer)

        if self._outbox is not None:
            self._outbox.call(fail)

    # What follows runs in the engine's thread.

    def _run(self) -> None:
        try:
            while not self._stopping:
                self._obey()
                if self._engine.has_work:
                    self._step()
        except BaseException as error:
            logger.exception("the engine has died")
            self._death = f"{type(error).__name__}: {error}"
            self._fail_readers(EngineDead(f"the engine has stopped: {self._death}"))
            self._engine.close()

    def _obey(self) -> None:
        """Carry out all commands that have come; wait for one if there is nothing else to do."""
        timeout_s = STALL_S if self._stalled else 0.0
        try:
            if self._engine.has_work:
                self._commands.get(timeout=timeout_s)()
            else:
                self._commands.get()()
            while True:
                self._commands.get_nowait()()
        except queue.Empty:
            pass

    def _step(self) -> None:
        steps = self._engine.steps
        self._publish(self._engine.step())
        self._stalled = self._engine.steps == steps

    def _add(
        self,
        request: Request,
        mailbox: Mailbox,
        outbox: Outbox,
        heard_s: float,
        foresee: bool = False,
    ) -> None:
        self._engine.add(request, heard_s, foresee=foresee)
        self._readers[request.id] = (mailbox, outbox)

    def _admit(
        self,
        requests: Sequence[Request],
        mailboxes: Sequence[Mailbox],
        outbox: Outbox,
        heard_s: float,
    ) -> Refused | None:
        places = _spread(len(requests), MOST_ANSWERS)
        for place, (request, mailbox) in enumerate(zip(requests, mailboxes, strict=True)):
            is_asked = place in places and request.objective.on_miss == "refuse"
            refused = self._engine.answer(request) if is_asked else None
            if refused is not None:
                for admitted in requests[:place]:
                    self._abort(admitted.id)
                return refused
            self._add(request, mailbox, outbox, heard_s)
        return None

    def _abort(self, request_id: str) -> None:
        delta = self._engine.abort(request_id)
        if delta is not None:
            self._publish([delta])

    def _stop(self) -> None:
        self._stopping = True
        for request_id in list(self._readers):
            self._abort(request_id)

    def _publish(self, deltas: list[Delta]) -> None:
        by_outbox: dict[Outbox, News] = {}
        for delta in deltas:
            mailbox, outbox = self._readers[delta.request_id]
            by_outbox.setdefault(outbox, {})[mailbox] = delta
            if delta.finish_reason is not None:
                del self._readers[delta.request_id]
        for outbox, news in by_outbox.items():
            outbox.post(news)


def _die(error: EngineDead) -> None:
    raise error


def _settle(settle: Callable[[Any], None], result: object, answer: "asyncio.Future[Any]") -> None:
    """Answer a question, unless whoever asked has gone."""
    if not answer.done():
        settle(result)


def _spread(count: int, most: int) -> set[int]:
    """At most so many places of `count`, evenly, the first and the last among them."""
    steps = max(1, min(count, most) - 1)
    return {round(step * (count - 1) / steps) for step in range(steps + 1)}
