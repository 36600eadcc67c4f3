"""As Arrow dispatches: replicas that compute prompts, replicas that decode, and flips between.

Arrow (arXiv 2505.11916), which is the SLO-aware policy of xLLM's service. Tokens, seconds.
"""

from __future__ import annotations

from collections.abc import Sequence

from hfx.request import FinishReason, Mix, Request

from .dispatch_fixed import OnArrival
from .dispatch_view import Decision, Flip, Migrate, ReplicaView, Role
from .policy import Live
from .prices import prompt_s

FIRST_TTFT_S, FIRST_TPOT_S = 1.0, 0.05  # theirs, for requests that promise nothing
PRICED_TOKENS = 2048  # of a backlog, whose prompts are priced alike


class ArrowLike(OnArrival):
    """Prompts go to the shortest backlog of those that compute prompts, or to a replica that
    decodes with time to spare where that backlog is too long; a prompt that is done is handed to
    the first replica that would still decode at the wanted pace, or else to the fastest.

    Where none would, and prompts can spare one, the replica that has computed it becomes one that
    decodes; one that has nothing left to decode turns back. Theirs: all of these rules. Chosen
    here: each request's own targets instead of one pair for all, half of the replicas for prompts
    at the start, and that a replica turns back only where prompts are late. It wants steps of many
    tokens, as hardly any stream shares them (M1, 32 requests/s on 4 replicas: 84 % of promises kept
    with steps of 2048, 90 % with 4096 and with 8192).
    """

    def __init__(self) -> None:
        super().__init__()
        self._roles: dict[int, Role] = {}
        self._sent: set[str] = set()  # handed over, and not arrived again since

    def joined(self, replica: ReplicaView) -> None:
        """See `Dispatcher.joined`; its role is kept, if it has one."""
        super().joined(replica)
        self._roles[replica.id] = replica.role

    def left(self, replica_id: int) -> None:
        """See `Dispatcher.left`."""
        super().left(replica_id)
        del self._roles[replica_id]

    def ended(self, request: Request, output_tokens: int, reason: FinishReason) -> None:
        """See `Dispatcher.ended`."""
        super().ended(request, output_tokens, reason)
        self._sent.discard(request.id)

    def arrived(self, live: Live, now_s: float) -> Sequence[Decision]:
        """See `Dispatcher.arrived`."""
        self._sent.discard(live.request.id)
        flips = self._deal_out()
        return (*flips, *super().arrived(live, now_s))

    def choose(self, live: Live) -> ReplicaView:
        """The replica that computes a prompt."""
        computing, decoding = self._pool("prefill"), self._pool("decode")
        if not decoding:
            return min(self.replicas, key=self.load)
        ttft_s, tpot_s = targets_s(live)
        best = min(computing, key=lambda view: (backlog_s(view), view.id))
        if backlog_s(best) <= ttft_s:
            return best
        spare = min(decoding, key=lambda view: (pace_s(view), view.id))
        share = (len(decoding) - 1) / len(decoding)
        if pace_s(spare) < tpot_s * share and backlog_s(spare) < backlog_s(best):
            return spare
        return best

    def stepped(self, replica_id: int, now_s: float) -> Sequence[Decision]:
        """Hand prompts that are done over; turn a replica back that has nothing to decode."""
        view = next(one for one in self.replicas if one.id == replica_id)
        if self._roles[replica_id] == "decode":
            return self._turn_back(view)
        if self._roles[replica_id] == "mixed":
            return ()
        decisions: list[Decision] = []
        for live in view.running:
            if live.is_decoding and live.request.id not in self._sent:
                decisions += self._hand_over(live, view)
                if self._roles[replica_id] != "prefill":
                    break
        return decisions

    def _hand_over(self, live: Live, source: ReplicaView) -> Sequence[Decision]:
        ttft_s, tpot_s = targets_s(live)
        decoding = self._pool("decode")
        fits = (view for view in decoding if pace_s(view, live) <= tpot_s)
        target = next(fits, None)
        if target is None:
            computing = self._pool("prefill")
            share = (len(computing) - 1) / len(computing)
            waits_s = sum(map(backlog_s, computing)) / len(computing)
            if len(computing) > 1 and (waits_s < ttft_s * share or len(decoding) < len(computing)):
                return (self._flip(source, "decode"),)
            target = min(decoding, key=lambda view: (pace_s(view, live), view.id))
        self._sent.add(live.request.id)
        return (Migrate(live.request.id, source.id, target.id, keeps_decoding=False),)

    def _turn_back(self, view: ReplicaView) -> Sequence[Decision]:
        if view.running or view.incoming or len(self._pool("decode")) < 2:
            return ()
        waiting = [live for one in self._pool("prefill") for live in one.waiting]
        late = any(backlog_s(one) > FIRST_TTFT_S for one in self._pool("prefill"))
        return (self._flip(view, "prefill"),) if waiting and late else ()

    def _deal_out(self) -> Sequence[Decision]:
        """Give roles to those that have none, and see that there are both."""
        flips: list[Decision] = []
        if len(self.replicas) < 2:
            alone = [view for view in self.replicas if self._roles[view.id] != "mixed"]
            return [self._flip(view, "mixed") for view in alone]
        for view in self.replicas:
            if self._roles[view.id] == "mixed":
                few: Role = (
                    "prefill"
                    if len(self._pool("prefill")) <= len(self._pool("decode"))
                    else "decode"
                )
                flips.append(self._flip(view, few))
        roles: tuple[Role, Role] = ("prefill", "decode")
        for role, other in (roles, roles[::-1]):
            if not self._pool(role):
                flips.append(self._flip(self._pool(other)[-1], role))
        return flips

    def _pool(self, role: Role) -> list[ReplicaView]:
        return [view for view in self.replicas if self._roles[view.id] == role]

    def _flip(self, view: ReplicaView, role: Role) -> Flip:
        self._roles[view.id] = role
        return Flip(view.id, role)


def targets_s(live: Live) -> tuple[float, float]:
    """A request's time to first token and per token, theirs where it promises none."""
    promise = live.request.objective
    return promise.ttft_s or FIRST_TTFT_S, promise.tpot_s or FIRST_TPOT_S


def backlog_s(view: ReplicaView) -> float:
    """How long a replica takes for the prompts that are bound to it."""
    each_s = prompt_s(view.cost, PRICED_TOKENS, 0) / PRICED_TOKENS
    return view.prompt_tokens * each_s


def pace_s(view: ReplicaView, more: Live | None = None) -> float:
    """The time per token of a replica's streams, with one more if given."""
    streams = [live for live in (*view.running, *view.incoming) if live.output_tokens]
    if more is not None:
        streams.append(more)
    if not streams:
        return 0.0
    context = sum(live.known_tokens for live in streams)
    return view.cost.step_s(Mix(len(streams), context)).mean_s
