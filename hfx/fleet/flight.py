"""One request on its way through a fleet, and what has come for its reader. Seconds, tokens."""

from __future__ import annotations

from math import inf
from typing import TYPE_CHECKING

from hfx.engine.account import Account
from hfx.engine.delta import Delta, RequestTimes, TokenLogprob
from hfx.engine.stream import Mailbox
from hfx.request import FinishReason, Request
from hfx.scheduler import Live

from .ends import account_of
from .messages import Add, End, Event, Start

if TYPE_CHECKING:
    from .member import Member


class Flight(Mailbox):
    """A live request: its reader's mailbox, what policies see of it, and where it is served.

    `output` are all tokens that were handed to the reader: where it is served next begins behind
    them. `member` is who serves it, None while it waits in the central queue; `order` is the number
    of the orders that brought it there. `strikes` counts deaths of replicas that it may have
    caused since its last token, `failed_at` is the last of them.
    """

    def __init__(
        self, request: Request, number: int, seed: str, heard_s: float, *, foresee: bool
    ) -> None:
        super().__init__(request.id)
        self.request = request
        self.number = number
        self.seed = seed
        self.heard_s = heard_s
        self.foresee = foresee
        arrival_s = request.arrival_s
        self.live = Live(request, 0, request.prompt_tokens, 0, 0, arrival_s=arrival_s)
        self.output: list[int] = []
        self.member: Member | None = None
        self.order = 0
        self.bound_at = 0  # output tokens when it was bound
        self.goes_to: int | None = None  # who gets it, once its replica has given it back
        self.is_leaving = False  # its replica was asked to give it back
        self.is_evicted = False  # because that replica is drained: it is in nobody's queue
        self.is_running = False
        self.strikes = 0.0
        self.failed_at: int | None = None
        self.resumptions = 0
        self.deaths = 0  # of replicas that had it, whatever the cause
        self.was_relegated = False
        self.names: dict[int, list[bytes]] = {}  # of its prompt's full blocks, by their size
        self.last: Delta | None = None  # of its end, once that has come
        objective = request.objective
        self._has_rule = objective.ttft_s is not None and objective.tpot_s is not None
        self._every_s = objective.tpot_s or 0.0
        self._due_s = arrival_s + (objective.ttft_s or 0.0) - self._every_s
        self._late_s = -inf  # the latest token, by when it was due
        self._scheduled_s: float | None = None
        self._hit_tokens = 0
        self._tokens: list[int] = []  # from here on: not yet read
        self._texts: list[str] = []
        self._logprobs: list[TokenLogprob] | None = None

    @property
    def expires_s(self) -> float:
        """When it ends, done or not; infinite where no deadline is hard."""
        objective = self.request.objective
        if objective.on_miss != "refuse" or objective.deadline_s is None:
            return inf
        return self.live.arrival_s + objective.deadline_s

    def addition(self) -> Add:
        """The order that makes a replica serve it from where it stands."""
        live = self.live
        return Add(
            self.number,
            self.request,
            self.seed,
            self.heard_s,
            self.foresee,
            tuple(self.output),
            live.first_token_s,
            live.last_token_s,
        )

    def hear(self, event: Event) -> bool:
        """Take news of it; false where it does not fit behind what has come."""
        output = self.output
        if event.at != len(output):
            return False
        if event.start is not None:
            self._begin(event.start)
        tokens = event.tokens
        if tokens:
            output += tokens
            self._tokens += tokens
            live = self.live
            live.output_tokens = len(output)
            live.known_tokens += len(tokens)
            live.cached_tokens = live.known_tokens - 1
            live.last_token_s = last_s = event.last_s
            if self._has_rule and last_s is not None:
                late_s = last_s - self._due_s - len(output) * self._every_s
                if late_s > self._late_s:
                    self._late_s = late_s
        if event.text:
            self._texts.append(event.text)
        if event.logprobs is not None:
            made = [TokenLogprob(*each) for each in event.logprobs]
            self._logprobs = made if self._logprobs is None else self._logprobs + made
        if event.end is not None:
            self.finish(event.end)
        elif tokens or event.text:
            self._news.set()
        return True

    def _begin(self, start: Start) -> None:
        if self._scheduled_s is None:
            self._scheduled_s, self._hit_tokens = start.scheduled_s, start.hit_tokens
        if self.live.first_token_s is None:
            self.live.first_token_s = start.first_token_s

    def finish(self, end: End) -> Delta:
        """It has ended: its reader gets what is left, and the end; the delta that says so."""
        account = account_of(end, self.request.objective)
        if self.resumptions and self._late_s > -inf:  # its last replica knows its last tokens only
            account.late_s = max(self._late_s, account.late_s or self._late_s)
        account.was_relegated |= self.was_relegated
        self.live.preemptions += end.preemptions
        self.last = self._pending = self._read(end, account)
        self.is_shut = True
        self._news.set()
        return self.last

    def finish_here(self, reason: FinishReason, error: str | None = None) -> Delta:
        """End it, whoever serves it."""
        spent = (0.0,) * 7
        return self.finish(End(reason, None, error, 0, spent, spent, None, False, None))

    async def take(self) -> Delta:
        """See `Mailbox.take`."""
        if self._pending is None:
            if not self._is_unread and not self.is_shut:
                await self._news.wait()
            if self._pending is None and self._is_unread:
                self._pending = self._read()
        return await super().take()

    def shut(self) -> None:
        """See `Mailbox.shut`."""
        self._tokens, self._texts, self._logprobs = [], [], None
        super().shut()

    @property
    def _is_unread(self) -> bool:
        return bool(self._tokens or self._texts)

    def _read(self, end: End | None = None, account: Account | None = None) -> Delta:
        """What has come since the last reading, as one delta."""
        live = self.live
        delta = Delta(
            self.request_id,
            tuple(self._tokens),
            "".join(self._texts),
            None if self._logprobs is None else tuple(self._logprobs),
            None if end is None else end.reason,
            None if end is None else end.stop_reason,
            self.request.prompt_tokens,
            live.output_tokens,
            self._hit_tokens,
            RequestTimes(live.arrival_s, self._scheduled_s, live.first_token_s, live.last_token_s),
            live.preemptions,
            None if end is None else end.error,
            account,
        )
        self._tokens, self._texts, self._logprobs = [], [], None
        return delta
