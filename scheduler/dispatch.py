"""The dispatcher of many promises: one central queue, bound late, prompts where they are in time.

A replica is given a request only when it can begin it in its next step, so what waits moves for
free. Those whose promise is lost wait behind the others for spare capacity, and where not all can
be in time, the ones that cost most give way (`dispatch_queue`). Streams of a kind are kept
together, and where keys and values can be moved, prompts apart from them (`dispatch_roles`). A
decision looks at a few replicas, however many there are. Seconds, tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from heapq import nsmallest
from math import inf

from hfx.request import FinishReason, Request

from .dispatch_fit import Fit, Speed, due_s, tpot_s
from .dispatch_moves import Moves
from .dispatch_queue import Queue, Waiting
from .dispatch_refuse import refusal
from .dispatch_roles import Chooser
from .dispatch_view import Bind, Decision, Flip, Refuse, Relegate, ReplicaView, Role, Unbind
from .lengths import Lengths
from .policy import Live
from .prices import prompt_s

SAMPLED = 64  # replicas that one decision looks at; of larger fleets, others each time
CANDIDATES = 8  # of them that are weighed for one that arrives
CHOOSE_S = 0.02  # between two selections among those that wait
STALE_S = 0.1  # how old the picture of a replica may be, of which nothing was heard since
ROLES_S = 2.0  # between two looks at the roles
LOOKED_AT = 64  # of the queue, when a replica has time
URGENT = 3.0  # times its work: a prompt that has no more time left may go to looser streams
URGENT_S = 0.1
IDLE_S = 0.01  # of prompt work: a replica that has less takes what it would else leave to others
RESERVE = 0.05  # of the prompt work that is bound: what those without a promise get of it
SPARE_BOUND = 1  # of them that may wait at a replica
STEAL_S = 0.02  # that a request must gain by being taken back from where it waits


class SlackDispatcher:
    """See the module. It remembers what it saw: the same events give the same decisions.

    `binds_early` is for fleets whose replicas don't wait for an answer before they begin their next
    step: what fits into it is bound while the present one runs.
    """

    def __init__(self, *, binds_early: bool = False) -> None:
        self.lengths = Lengths()
        self.chooser = Chooser()
        self.queue = Queue()
        self.binds_early = binds_early
        self._replicas: dict[int, ReplicaView] = {}
        self._speeds: dict[int, Speed] = {}
        self._fits: dict[int, tuple[float, Fit]] = {}  # and as of when
        self._order: list[int] = []  # tightest streams first, prompts only at the end
        self._place: dict[int, int] = {}
        self._fastest = -1  # work in the queue is priced by it
        self._moves = Moves(self._hosts)
        self._sample_at = 0
        self._chosen_s = -inf
        self._roles_s = 0.0
        self._owed_s = 0.0

    @property
    def has_queue(self) -> bool:
        """See `Dispatcher.has_queue`."""
        return bool(self.queue)

    @property
    def wake_s(self) -> float:
        """See `Dispatcher.wake_s`."""
        return self._roles_s if len(self._order) > 1 else inf

    # Replicas come and go

    def joined(self, replica: ReplicaView) -> None:
        """See `Dispatcher.joined`."""
        self._replicas[replica.id] = replica
        self._speeds[replica.id] = Speed.of(replica)
        self._reorder()
        if len(self._order) == 1:
            for waiting in self.queue:
                waiting.work_s = prompt_s(replica.cost, waiting.live.known_tokens, 0)

    def left(self, replica_id: int) -> None:
        """See `Dispatcher.left`."""
        self._replicas.pop(replica_id, None)
        self._speeds.pop(replica_id, None)
        self._fits.pop(replica_id, None)
        self._reorder()

    def _reorder(self) -> None:
        self._order = sorted(self._replicas, key=lambda id: (self._speeds[id].fixed_s, id))
        self._place = {id: place for place, id in enumerate(self._order)}
        self._fastest = min(self._order, key=lambda id: self._speeds[id].prompt_s, default=-1)

    # Requests come and go

    def arrived(self, live: Live, now_s: float) -> Sequence[Decision]:
        """See `Dispatcher.arrived`."""
        self.lengths.hear(live.request)
        waiting = self._waiting(live, now_s)
        left = self.lengths.remaining(live.request, live.output_tokens)
        self.chooser.traffic.arrived(waiting.tpot_s, live.known_tokens, left, now_s)
        may_refuse = live.request.objective.on_miss == "refuse" and not live.output_tokens
        if may_refuse and self._order:
            refused = refusal(waiting, self._pictures(now_s), self.queue, left, now_s)
            if refused is not None:
                return (Refuse(waiting.id, refused),)
        found = self._best(waiting, now_s)
        if found is not None:
            return (Bind(waiting.id, found),)
        self.queue.add(waiting)
        if not waiting.is_spare and waiting.is_lost(now_s, self._fixed_s):
            self.queue.relegate(waiting)
            return (Relegate(waiting.id),)
        return ()

    def ended(self, request: Request, output_tokens: int, reason: FinishReason) -> None:
        """See `Dispatcher.ended`; a request that waits here is forgotten."""
        self.queue.remove(request.id)
        self._moves.forget(request.id)
        if reason in (FinishReason.STOP, FinishReason.LENGTH):
            self.lengths.learn(request, output_tokens)

    def _waiting(self, live: Live, now_s: float) -> Waiting:
        work_s = 0.0  # until somebody is there who has a price
        if self._order:
            work_s = prompt_s(self._replicas[self._fastest].cost, live.known_tokens, 0)
        due = now_s if live.output_tokens else due_s(live)  # it has begun: its next token is due
        return Waiting(live, due, tpot_s(live), work_s)

    # A replica has time

    def stepped(self, replica_id: int, now_s: float) -> Sequence[Decision]:
        """See `Dispatcher.stepped`."""
        view = self._replicas[replica_id]
        pace_s = self._pace_s(replica_id)
        decisions: list[Decision] = []
        if pace_s and view.link is not None:
            decisions += self._moves.hand_on(view, pace_s, now_s, self._hosting)
        if not self.queue:
            return [*decisions, *self._steal(view, now_s)] if self._is_alone(view) else decisions
        fit = self._picture(replica_id, now_s, fresh=True)
        decisions += self._choose(now_s)
        window_s = fit.window_s() if len(self._order) > 1 else inf
        if pace_s < inf and self._leaves_prompts(now_s):
            return decisions
        while (waiting := self._next(fit, window_s, now_s)) is not None:
            self.queue.remove(waiting.id)
            decisions.append(Bind(waiting.id, replica_id))
            fit.add(waiting.live)
        return decisions

    def woke(self, now_s: float) -> Sequence[Decision]:
        """See `Dispatcher.woke`: looks at the roles."""
        self._roles_s = now_s + ROLES_S
        first = self._replicas[self._order[0]]
        moves = all(view.link is not None for view in self._replicas.values())
        roles = self.chooser.look(first.cost, len(self._order), now_s, moves=moves)
        flips: list[Decision] = []
        for place, id in enumerate(self._order):
            role: Role = "prefill" if roles.pace_s(place) == inf else "mixed"
            if self._replicas[id].role != role:
                flips.append(Flip(id, role))
        return flips

    def _next(self, fit: Fit, window_s: float, now_s: float) -> Waiting | None:
        """The first in the queue that this replica should serve, spare work where there is none."""
        urgent = late = None
        pace_s = 0.0 if self.chooser.roles.is_apart else self._pace_s(fit.view.id)
        for waiting in self.queue.promised[:LOOKED_AT]:
            ahead_s = fit.ahead_s(waiting.due_s)
            if (ahead_s and ahead_s >= window_s) or not self._holds(fit, waiting):
                continue
            is_tighter = waiting.tpot_s < pace_s
            if is_tighter and (urgent is not None or not _is_urgent(waiting, now_s)):
                continue
            fits = waiting.live.output_tokens or self._laxity_s(fit, waiting) >= 0
            if fits and not is_tighter:
                self._owed_s += RESERVE * waiting.work_s
                return waiting
            if fits:
                urgent = waiting
            elif late is None:
                late = waiting
        is_idle = fit.work_s < IDLE_S and window_s > 0
        if is_idle and (urgent or late) is not None:
            return urgent or late
        return self._next_spare(fit, window_s)

    def _next_spare(self, fit: Fit, window_s: float) -> Waiting | None:
        """Spare work: where nobody else waits, or as much as it has a right to."""
        spare = self.queue.spare
        if not spare or len(fit.view.waiting) >= SPARE_BOUND or fit.work_s >= window_s:
            return None
        first = spare[0]
        if self.queue.promised and self._owed_s < first.work_s:
            return None
        if not self._holds(fit, first):
            return None
        self._owed_s = max(0.0, self._owed_s - first.work_s)
        return first

    def _choose(self, now_s: float) -> Sequence[Decision]:
        """Set those aside whose promise is lost, and put off who can't all be in time."""
        if now_s < self._chosen_s + CHOOSE_S or not self.queue.promised:
            return ()
        self._chosen_s = now_s
        lost = [one for one in self.queue.promised if one.is_lost(now_s, self._fixed_s)]
        for waiting in lost:
            self.queue.relegate(waiting)
        fits = self._pictures(now_s)
        self.queue.select(fits, len(self._order) / len(fits), now_s, self._speeds[self._fastest])
        return [Relegate(waiting.id) for waiting in lost]

    def _leaves_prompts(self, now_s: float) -> bool:
        """Whether a replica that computes prompts only could begin more of them."""
        for id in reversed(self._sampled()):
            if self._pace_s(id) < inf:
                return False
            fit = self._picture(id, now_s)
            front = self.queue.promised[:1]
            if fit.work_s < fit.window_s() and all(self._holds(fit, one) for one in front):
                return True
        return False

    # One that arrives

    def _best(self, waiting: Waiting, now_s: float) -> int | None:
        """The replica that can begin it at once and keeps most time to spare; None: it waits."""
        if len(self._order) == 1:
            return self._order[0]
        best: tuple[tuple[float, float], int] | None = None
        for id in self._candidates(waiting, now_s):
            pace_s = self._pace_s(id)
            fit = self._picture(id, now_s, fresh=True)
            if fit.ahead_s(waiting.due_s) >= fit.window_s() or not self._holds(fit, waiting):
                continue
            laxity_s = self._laxity_s(fit, waiting) if waiting.due_s < inf else -fit.base_s
            if laxity_s < 0 and waiting.due_s < inf and not waiting.live.output_tokens:
                continue
            if best is None or (pace_s, laxity_s) > best[0]:
                best = (pace_s, laxity_s), id
        return None if best is None else best[1]

    def _candidates(self, waiting: Waiting, now_s: float) -> list[int]:
        """A few of the replicas that could begin it: those with the fewest requests."""
        able, is_apart = [], self.chooser.roles.is_apart
        for id in self._sampled():
            view, pace_s = self._replicas[id], self._pace_s(id)
            if (is_apart or pace_s <= waiting.tpot_s) and self._begins(view, now_s):
                able.append((-pace_s, view.requests, id))
        return [id for _, _, id in nsmallest(CANDIDATES, able)]

    def _begins(self, view: ReplicaView, now_s: float) -> bool:
        """Whether a request that is bound now is not bound sooner than it has to be."""
        if self.binds_early:
            return True
        view.advance(now_s)
        return view.boundary_s <= now_s and not view.prompt_tokens

    # What is known of replicas

    @property
    def _fixed_s(self) -> float:
        return self._speeds[self._fastest].fixed_s if self._order else 0.0

    def _pace_s(self, id: int) -> float:
        return self.chooser.roles.pace_s(self._place[id])

    def _hosts(self, id: int, stream_s: float) -> bool:
        """Whether streams of that time per token may stay there."""
        return self._pace_s(id) <= stream_s

    def _hosting(self, now_s: float) -> list[tuple[float, Fit]]:
        """Replicas that host streams, with their tightest time per token."""
        paces = ((self._pace_s(id), id) for id in self._sampled())
        return [(pace_s, self._picture(id, now_s)) for pace_s, id in paces if pace_s < inf]

    def _sampled(self) -> list[int]:
        order = self._order
        if len(order) <= SAMPLED:
            return order
        self._sample_at = (self._sample_at + SAMPLED) % len(order)
        return (order + order)[self._sample_at : self._sample_at + SAMPLED]

    def _picture(self, id: int, now_s: float, *, fresh: bool = False) -> Fit:
        """A replica as it will be when its step ends, as of now or of a moment ago."""
        known = self._fits.get(id)
        if known is None or fresh or now_s > known[0] + STALE_S:
            known = self._fits[id] = now_s, Fit.of(self._replicas[id], self._speeds[id], now_s)
        return known[1]

    def _pictures(self, now_s: float) -> list[Fit]:
        return [self._picture(id, now_s) for id in self._sampled()]

    def _laxity_s(self, fit: Fit, waiting: Waiting) -> float:
        hit = fit.view.hit_tokens(waiting.live.request)
        work_s = prompt_s(fit.view.cost, waiting.live.known_tokens - hit, hit)
        is_hosted = self._hosts(fit.view.id, waiting.tpot_s)
        return fit.laxity_s(waiting.due_s, work_s, waiting.tpot_s if is_hosted else inf)

    def _holds(self, fit: Fit, waiting: Waiting) -> bool:
        """Whether there are blocks for it and for its output, or nobody else there anyway."""
        live = waiting.live
        if not fit.decodes and not fit.prompts:
            return True
        left = self.lengths.remaining(live.request, live.output_tokens)
        return -(-(live.known_tokens + int(left)) // fit.view.block_tokens) <= fit.blocks

    # Taken back

    def _is_alone(self, view: ReplicaView) -> bool:
        return not view.prompt_tokens and len(self._order) > 1

    def _steal(self, view: ReplicaView, now_s: float) -> Sequence[Decision]:
        """Take back what waits elsewhere, if it would be done sooner here."""
        busy = [self._replicas[id] for id in self._sampled() if self._replicas[id].waiting]
        if not busy:
            return ()
        other = max(busy, key=lambda one: (one.prompt_tokens, -one.id))
        live = other.waiting[-1]
        waiting = self._waiting(live, now_s)
        if other is view or live.output_tokens or live.preemptions:
            return ()
        if not self.chooser.roles.is_apart and self._pace_s(view.id) > waiting.tpot_s:
            return ()
        there = self._picture(other.id, now_s, fresh=True)
        here = self._picture(view.id, now_s, fresh=True)
        if not self._holds(here, waiting):
            return ()
        gain_s = there.done_s(inf, 0.0, inf) - here.done_s(inf, waiting.work_s, waiting.tpot_s)
        if gain_s < STEAL_S:
            return ()
        return Unbind(waiting.id, other.id), Bind(waiting.id, view.id)


def _is_urgent(waiting: Waiting, now_s: float) -> bool:
    return waiting.due_s - now_s <= URGENT * waiting.work_s + URGENT_S
