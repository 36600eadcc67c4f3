"""The engine's thread of a replica: obeys orders between steps and tells what is new after each.

It never waits for its parent: news that can't be sent yet merges per request, so that what is kept
is bounded by the outputs themselves. Seconds.
"""

from __future__ import annotations

import logging
import time
from dataclasses import replace

import zmq

from hfx.engine.delta import Delta
from hfx.engine.engine import Engine
from hfx.engine.sequence import Past
from hfx.request import FinishReason

from .ends import end_of
from .messages import (
    Abort,
    Ack,
    Add,
    Bye,
    End,
    Event,
    News,
    Order,
    Orders,
    Pace,
    ProtocolError,
    Start,
    State,
    Stop,
    Unbind,
    Welcome,
    encode,
    to_replica,
)
from .pulse import Vitals
from .state import Reporter

logger = logging.getLogger(__name__)

STALL_S = 0.001  # how long to wait for orders when the policy lets nothing run
IDLE_S = 5.0
NOTHING = (0.0,) * 7


class OrdersLost(RuntimeError):
    """An order of the parent did not arrive: the two no longer agree on what is served."""


class Worker:
    """Serves one engine over a connected socket until told to stop."""

    def __init__(
        self,
        socket: zmq.Socket[bytes],
        engine: Engine,
        epoch: int,
        welcome: Welcome,
        vitals: Vitals,
    ) -> None:
        self._socket = socket
        self._engine = engine
        self._epoch = epoch
        self._window = welcome.window
        self._vitals = vitals
        self._reporter = Reporter(engine, welcome.snapshot_s)
        self._ids: dict[int, str] = {}
        self._numbers: dict[str, int] = {}
        self._told: set[int] = set()  # those whose start was told
        self._news: dict[int, Delta] = {}
        self._refused: list[Event] = []
        self._returned: list[tuple[int, bool]] = []
        self._sent = self._acked = self._heard = 0
        self._stalled = self._stopping = self._has_added = False

    def run(self) -> None:
        """Until `Stop` has come.

        Raises:
            OrdersLost: the parent's orders have a gap.
            EngineDead: the engine has failed too often, or lost a rank of its model.
        """
        while not self._stopping:
            self._vitals.turn += 1
            self._hear()
            if self._engine.lost is not None:
                raise self._engine.lost
            if self._engine.has_work and not self._stopping:
                self._tell_heard()
                self._step()
            self._tell()
        self._socket.send(encode(Bye(self._epoch)))

    # Orders

    def _hear(self) -> None:
        """Obey all orders that have come; wait for one if there is nothing else to do."""
        wait_s = self._idle_s()
        if wait_s > 0 and not self._socket.poll(max(1, int(wait_s * 1000))):
            return
        while True:
            try:
                data = self._socket.recv(zmq.NOBLOCK)
            except zmq.Again:
                return
            try:
                message = to_replica(data)
            except ProtocolError:
                logger.exception("a message of the parent is left unread")
                continue
            if message.epoch != self._epoch:
                continue
            if isinstance(message, Ack):
                self._acked = max(self._acked, message.acked)
            elif isinstance(message, Orders):
                self._take(message)

    def _idle_s(self) -> float:
        if self._engine.has_work:
            return STALL_S if self._stalled else 0.0
        if self._pending and self._has_window:
            return 0.0
        return min(IDLE_S, self._reporter.due_s(time.monotonic()))

    def _take(self, orders: Orders) -> None:
        self._acked = max(self._acked, orders.acked)
        if orders.number <= self._heard:
            return
        if orders.number != self._heard + 1:
            raise OrdersLost(f"orders {self._heard + 1} to {orders.number - 1} have not come")
        self._heard = self._vitals.heard = orders.number
        self._reporter.touch()
        for order in orders.orders:
            self._obey(order)

    def _obey(self, order: Order) -> None:
        if isinstance(order, Add):
            self._add(order)
        elif isinstance(order, Abort):
            self._abort(order.number)
        elif isinstance(order, Unbind):
            self._unbind(order.number)
        elif isinstance(order, Pace):
            self._reporter.interval_s = order.snapshot_s
        else:
            assert isinstance(order, Stop)
            self._stopping = True

    def _add(self, order: Add) -> None:
        request = order.request
        past = Past(order.seed, order.output, order.first_token_s, order.last_token_s)
        try:
            self._engine.add(request, order.heard_s, foresee=order.foresee, past=past)
        except ValueError as error:  # its parent should have refused it
            self._refused.append(_refusal(order, str(error)))
            return
        self._has_added = True
        self._ids[order.number] = request.id
        self._numbers[request.id] = order.number

    def _abort(self, number: int) -> None:
        request_id = self._ids.get(number)
        if request_id is not None:
            self._engine.abort(request_id)
            self._forget(number)
            self._news.pop(number, None)

    def _unbind(self, number: int) -> None:
        request_id = self._ids.get(number)
        if request_id is None:
            return  # it has ended, and its end is told
        is_back = self._engine.withdraw(request_id)
        if is_back:
            self._forget(number)
        self._returned.append((number, is_back))

    def _forget(self, number: int) -> None:
        del self._numbers[self._ids.pop(number)]
        self._told.discard(number)

    # News

    def _step(self) -> None:
        steps = self._engine.steps
        self._vitals.step_s = self._engine.clock.now_s()
        deltas = self._engine.step()
        self._vitals.step_s = None
        self._stalled = self._engine.steps == steps
        if not self._stalled:
            self._reporter.touch()
        for delta in deltas:
            number = self._numbers[delta.request_id]
            if delta.finish_reason is FinishReason.ERROR:
                delta = replace(delta, text="")  # held back: it goes on elsewhere, if it does
            earlier = self._news.get(number)
            self._news[number] = earlier.followed_by(delta) if earlier else delta

    def _tell_heard(self) -> None:
        """Say which requests have come before a step computes them: one may be its last."""
        if self._has_added and self._has_window:
            self._send((), None)
        self._has_added = False

    @property
    def _pending(self) -> bool:
        return bool(self._news or self._refused or self._returned)

    @property
    def _has_window(self) -> bool:
        return self._sent - self._acked < self._window

    def _tell(self) -> None:
        """Send what is new, unless the parent has too much unread."""
        is_due = self._reporter.due_s(time.monotonic()) <= 0
        if not self._has_window or not (self._pending or is_due):
            return
        events = [self._event(number, delta) for number, delta in self._news.items()]
        events += self._refused
        state = self._reporter.state(self._numbers) if is_due else None
        if not self._send(tuple(events), state):
            self._reporter.keep(state)
            return
        self._forget_ended()
        self._news.clear()
        self._refused.clear()

    def _send(self, events: tuple[Event, ...], state: State | None) -> bool:
        """Whether the next news could be handed over."""
        number = self._sent + 1
        news = News(self._epoch, number, self._heard, events, state, tuple(self._returned))
        try:
            self._socket.send(encode(news), zmq.NOBLOCK)
        except zmq.Again:
            return False
        self._sent = self._vitals.sent = number
        self._returned.clear()
        return True

    def _event(self, number: int, delta: Delta) -> Event:
        times, start = delta.times, None
        if number not in self._told and times.scheduled_s is not None:
            start = Start(times.scheduled_s, times.first_token_s, delta.cached_tokens)
            if times.first_token_s is not None:
                self._told.add(number)
        logprobs = None
        if delta.logprobs is not None:
            logprobs = tuple((p.token_id, p.logprob, p.rank, p.top) for p in delta.logprobs)
        at = delta.output_tokens - len(delta.token_ids)
        end = None if delta.finish_reason is None else end_of(delta)
        return Event(
            number, at, delta.token_ids, delta.text, times.last_token_s, start, logprobs, end
        )

    def _forget_ended(self) -> None:
        for number, delta in self._news.items():
            if delta.finish_reason is not None:
                self._forget(number)


def _refusal(order: Add, reason: str) -> Event:
    end = End(FinishReason.ERROR, None, reason, 0, NOTHING, NOTHING, None, False, None)
    return Event(order.number, len(order.output), (), "", None, None, None, end)
