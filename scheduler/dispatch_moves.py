"""Streams that go on elsewhere than where their prompt was computed: when, and to whom. Seconds."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from math import inf

from .dispatch_fit import Fit, tpot_s
from .dispatch_view import Decision, Migrate, ReplicaView
from .policy import Live

HOSTED = 0.75  # of TPOT: steps that let a stream win back what moving it took
LOOK_S = 0.1  # between two looks at a replica that hosts streams itself
RETRY_S = 0.5  # after which a stream that is still where it was is sent again

Hosting = Callable[[float], Sequence[tuple[float, Fit]]]  # by now, as (tightest pace, replica)


class Moves:
    """`hosts` says whether a replica may keep streams of some time per token."""

    def __init__(self, hosts: Callable[[int, float], bool]) -> None:
        self._hosts = hosts
        self._sent: dict[str, float] = {}
        self._looked: dict[int, float] = {}

    def forget(self, request_id: str) -> None:
        """A request has ended."""
        self._sent.pop(request_id, None)

    def hand_on(
        self, view: ReplicaView, pace_s: float, now_s: float, hosting: Hosting
    ) -> list[Decision]:
        """Send on the streams that a replica shouldn't host.

        Fresh ones rest while they are moved; others decode meanwhile, so that they hardly notice.
        """
        decisions: list[Decision] = []
        if pace_s < inf and now_s < self._looked.get(view.id, -inf) + LOOK_S:
            return decisions
        self._looked[view.id] = now_s
        for live in view.running:
            if not live.output_tokens or not live.is_decoding:
                continue
            if tpot_s(live) >= pace_s and pace_s < inf:  # it may stay
                continue
            id = live.request.id
            if now_s < self._sent.get(id, -inf) + RETRY_S:
                continue
            target = self._host(live, view, hosting(now_s))
            if target is not None:
                self._sent[id] = now_s
                target.join(live)
                target.price()
                decisions.append(Migrate(id, view.id, target.view.id, live.output_tokens > 1))
        return decisions

    def _host(
        self, live: Live, source: ReplicaView, others: Iterable[tuple[float, Fit]]
    ) -> Fit | None:
        """Where all streams would keep their pace, and no tighter than need be."""
        best: tuple[tuple[bool, float, float], Fit] | None = None
        stream_s = tpot_s(live)
        for pace_s, fit in others:
            if fit.view.id == source.id or not self._hosts(fit.view.id, stream_s):
                continue
            if fit.view.free_blocks * fit.view.block_tokens < 2 * live.known_tokens:
                continue
            tightest_s = min(fit.tightest_s, stream_s)
            step_s = fit.step_s(1, live.known_tokens)
            keeps = step_s <= HOSTED * tightest_s
            rank = keeps, pace_s, -step_s
            if best is None or rank > best[0]:
                best = rank, fit
        return None if best is None else best[1]
