"""The dispatcher of many promises: one central queue, bound late, prompts where they fit best.

A replica is given a request only when it can begin it within an iteration or two, so what waits
moves for free. Those whose promise is lost wait behind the others for spare capacity, and where not
all can be in time, the ones that cost most give way. Tight streams are kept together
(`dispatch_roles`). A decision looks at a few replicas, however many there are. Seconds, tokens.
"""

from __future__ import annotations

from bisect import insort
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from heapq import heappop, heappush, nsmallest
from math import inf

from hfx.request import FinishReason, Request

from .dispatch_fit import MOST_SHARE, Fit, due_s, tpot_s
from .dispatch_roles import Roles, Tiers
from .dispatch_view import Bind, Decision, Relegate, ReplicaView
from .lengths import Lengths
from .policy import Live
from .prices import decode_s, fixed_s, prompt_s

WINDOW_S = 0.06  # of bound work that waits at a replica: an iteration or two
CANDIDATES = 8  # replicas that one decision weighs
SAMPLED = 64  # of which they are the least loaded
CHOOSE_S = 0.05  # between two selections among those that wait
ROLES_S = 2.0  # between two looks at the roles
LOOKED_AT = 32  # of the queue, when a replica has time
URGENT = 3.0  # times its work: a prompt that has no more time left may go to any group
URGENT_S = 0.1
SPARE_BOUND = 1  # requests without a promise that may wait at a replica


@dataclass(slots=True, eq=False)
class _Waiting:
    """A request that is bound to nobody; `work_s` on the first replica, without a prefix hit."""

    live: Live
    due_s: float
    tpot_s: float
    work_s: float
    is_put_off: bool = False

    @property
    def key(self) -> tuple[bool, float, float, str]:
        return self.is_put_off, self.due_s, self.live.arrival_s, self.live.request.id


class SlackDispatcher:
    """See the module. It remembers what it saw: the same events give the same decisions."""

    def __init__(self) -> None:
        self.lengths = Lengths()
        self.tiers = Tiers()
        self._replicas: dict[int, ReplicaView] = {}
        self._order: list[int] = []
        self._queue: list[_Waiting] = []  # promises that can be kept, earliest due first
        self._spare: deque[_Waiting] = deque()
        self._at = 0
        self._chosen_s = self._roles_s = -inf
        self._fixed_s = 0.0
        self._decode_s = 0.0

    @property
    def has_queue(self) -> bool:
        """See `Dispatcher.has_queue`."""
        return bool(self._queue or self._spare)

    @property
    def wake_s(self) -> float:
        """See `Dispatcher.wake_s`."""
        return inf

    def woke(self, now_s: float) -> Sequence[Decision]:
        """See `Dispatcher.woke`."""
        return ()

    def joined(self, replica: ReplicaView) -> None:
        """See `Dispatcher.joined`."""
        self._replicas[replica.id] = replica
        self._order = sorted(self._replicas)
        first = self._replicas[self._order[0]]
        self._fixed_s = fixed_s(first.cost)
        self._decode_s = decode_s(first.cost, 1024)

    def left(self, replica_id: int) -> None:
        """See `Dispatcher.left`."""
        del self._replicas[replica_id]
        self._order = sorted(self._replicas)

    def ended(self, request: Request, output_tokens: int, reason: FinishReason) -> None:
        """See `Dispatcher.ended`."""
        if reason in (FinishReason.STOP, FinishReason.LENGTH):
            self.lengths.learn(request, output_tokens)

    def arrived(self, live: Live, now_s: float) -> Sequence[Decision]:
        """See `Dispatcher.arrived`."""
        self._look_at_roles(now_s)
        cost = self._replicas[self._order[0]].cost
        waiting = _Waiting(live, due_s(live), tpot_s(live), prompt_s(cost, live.known_tokens, 0))
        self.lengths.hear(live.request)
        left = self.lengths.remaining(live.request, live.output_tokens)
        self.tiers.arrived(waiting.tpot_s, waiting.work_s + left * self._decode_s, now_s)
        if live.output_tokens:  # its first token was sent: what is due now is the next one
            waiting.due_s = now_s
        found = self._place(waiting, now_s)
        if found is not None:
            return (Bind(live.request.id, found.id),)
        return self._hold(waiting, now_s)

    def stepped(self, replica_id: int, now_s: float) -> Sequence[Decision]:
        """See `Dispatcher.stepped`."""
        if not self.has_queue:
            return ()
        view = self._replicas[replica_id]
        decisions: list[Decision] = list(self._choose(now_s))
        fit = Fit.of(view, now_s)
        while fit.work_s < WINDOW_S:
            waiting = self._next(fit, now_s)
            if waiting is None:
                break
            decisions.append(Bind(waiting.live.request.id, replica_id))
            fit.add(waiting.live)
        return decisions

    # One that arrives

    def _hold(self, waiting: _Waiting, now_s: float) -> Sequence[Decision]:
        """Keep it in the queue; or with the spare work, if nobody could have it in time."""
        if waiting.due_s == inf:
            self._spare.append(waiting)
            return ()
        if not waiting.live.output_tokens and self._is_lost(waiting, now_s):
            self._spare.append(waiting)
            return (Relegate(waiting.live.request.id),)
        insort(self._queue, waiting, key=lambda one: one.key)
        return ()

    def _place(self, waiting: _Waiting, now_s: float) -> ReplicaView | None:
        """The replica that can begin it at once and keeps most time to spare; None: it waits."""
        if self._queue and self._queue[0].key < waiting.key and not self._is_tight(waiting):
            return None
        best: tuple[float, int] | None = None
        for view in self._candidates(waiting):
            fit = Fit.of(view, now_s)
            if fit.work_s >= WINDOW_S or not self._holds(fit, waiting):
                continue
            work_s = self._work_s(waiting, view)
            laxity_s = fit.laxity_s(waiting.due_s, work_s, waiting.tpot_s)
            if waiting.due_s == inf:
                laxity_s = -fit.work_s
            elif laxity_s < 0:
                continue
            if best is None or (-laxity_s, view.id) < best:
                best = (-laxity_s, view.id)
        return None if best is None else self._replicas[best[1]]

    def _candidates(self, waiting: _Waiting) -> list[ReplicaView]:
        """A few replicas of its group with little to do, or of all where the group is busy."""
        roles = self.tiers.roles
        split = min(roles.replicas, len(self._order) - 1)
        ids = self._order
        if split:
            ids = ids[:split] if self._is_tight(waiting) else ids[split:]
        if len(ids) > SAMPLED:
            self._at = (self._at + SAMPLED) % len(ids)
            ids = (ids + ids)[self._at : self._at + SAMPLED]
        views = [self._replicas[id] for id in ids]
        return nsmallest(CANDIDATES, views, key=lambda view: (view.prompt_tokens, view.requests))

    def _is_tight(self, waiting: _Waiting) -> bool:
        return waiting.tpot_s <= self.tiers.roles.tpot_s

    def _work_s(self, waiting: _Waiting, view: ReplicaView) -> float:
        hit = view.hit_tokens(waiting.live.request)
        return prompt_s(view.cost, waiting.live.known_tokens - hit, hit)

    def _holds(self, fit: Fit, waiting: _Waiting) -> bool:
        """Whether there are blocks for it and for some of its output."""
        left = self.lengths.remaining(waiting.live.request, waiting.live.output_tokens)
        tokens = waiting.live.known_tokens + int(left)
        return -(-tokens // fit.view.block_tokens) <= fit.blocks

    def _is_lost(self, waiting: _Waiting, now_s: float) -> bool:
        return now_s + self._fixed_s + waiting.work_s / MOST_SHARE > waiting.due_s

    # A replica that has time

    def _next(self, fit: Fit, now_s: float) -> _Waiting | None:
        """The first in the queue that it should serve; spare work where there is none."""
        roles, place = self.tiers.roles, self._order.index(fit.view.id)
        has_split = 0 < roles.replicas < len(self._order)
        serves_tight = place < roles.replicas
        for n, waiting in enumerate(self._queue[:LOOKED_AT]):
            if has_split and self._is_tight(waiting) is not serves_tight:
                left_s = waiting.due_s - now_s
                if not serves_tight or left_s > URGENT * waiting.work_s + URGENT_S:
                    continue
            if self._holds(fit, waiting):
                return self._queue.pop(n)
        if self._spare and not self._is_short(fit) and self._holds(fit, self._spare[0]):
            return self._spare.popleft()
        return None

    def _is_short(self, fit: Fit) -> bool:
        """Whether spare work would stand in the way of promises."""
        return bool(self._queue) or len(fit.view.waiting) >= SPARE_BOUND

    def _choose(self, now_s: float) -> Sequence[Decision]:
        """Set those aside whose promise is lost, and put off who can't all be in time.

        Moore and Hodgson's rule over the fleet's time for prompts: in order of due time, whenever
        they don't fit the one that takes longest for its weight is put off.
        """
        if now_s < self._chosen_s + CHOOSE_S or not self._queue:
            return ()
        self._chosen_s = now_s
        lost = [w for w in self._queue if not w.live.output_tokens and self._is_lost(w, now_s)]
        gone = set(map(id, lost))
        kept = sorted((w for w in self._queue if id(w) not in gone), key=lambda one: one.key[1:])
        fits = [Fit.of(self._replicas[id], now_s) for id in self._order[:SAMPLED]]
        scale = len(self._order) / len(fits)
        supply = scale * sum(fit.share() for fit in fits)
        ahead_s = scale * sum(fit.work_s for fit in fits)
        heap: list[tuple[float, int, _Waiting]] = []
        for n, waiting in enumerate(kept):
            waiting.is_put_off = False
            ahead_s += waiting.work_s
            weight = waiting.live.request.objective.weight
            heappush(heap, (-waiting.work_s / weight, n, waiting))
            while heap and ahead_s > supply * (waiting.due_s - now_s):
                late = heappop(heap)[2]
                late.is_put_off = True
                ahead_s -= late.work_s
        kept.sort(key=lambda one: one.key)
        self._queue = kept
        self._spare.extend(lost)
        return [Relegate(waiting.live.request.id) for waiting in lost]

    def _look_at_roles(self, now_s: float) -> Roles:
        if now_s >= self._roles_s + ROLES_S:
            self._roles_s = now_s
            self.tiers.choose(now_s, len(self._order), self._fixed_s)
        return self.tiers.roles
