"""The central queue: requests that no replica has yet, and which of them can't all be in time.

In order of due time, whenever those up to there don't fit into the fleet's time for prompts, the
one that takes longest for its weight is put off (Moore and Hodgson 1968: the most promises kept on
one machine). Promises that are lost, and requests without any, wait for spare capacity. Seconds.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from heapq import heappop, heappush
from itertools import islice
from math import inf

from .dispatch_fit import MOST_SHARE, Fit, Speed
from .policy import Live

SELECTED = 256  # of the queue, earliest due first, among which is chosen


@dataclass(slots=True, eq=False)
class Waiting:
    """A request that is bound to nobody. `work_s` is its prompt's, at the speed of the reference
    replica and without a prefix hit."""

    live: Live
    due_s: float
    tpot_s: float
    work_s: float
    is_put_off: bool = False
    is_spare: bool = False

    @property
    def id(self) -> str:
        """The request's."""
        return self.live.request.id

    @property
    def weight(self) -> float:
        """What keeping its promise counts."""
        return self.live.request.objective.weight

    def is_lost(self, now_s: float, fixed_s: float) -> bool:
        """Whether no replica could have it done in time."""
        if self.live.output_tokens or not self.live.request.objective.may_relegate:
            return False
        return now_s + fixed_s + self.work_s / MOST_SHARE > self.due_s


def by_due(one: Waiting) -> tuple[bool, float, float, str]:
    """The order of promises: those that are put off come last."""
    return one.is_put_off, one.due_s, one.live.arrival_s, one.id


def by_arrival(one: Waiting) -> tuple[float, str]:
    """The order of the rest."""
    return one.live.arrival_s, one.id


class Queue:
    """`promised` in order of due time, `spare` in order of arrival."""

    def __init__(self) -> None:
        self.promised: list[Waiting] = []
        self.spare: list[Waiting] = []
        self._all: dict[str, Waiting] = {}

    def __len__(self) -> int:
        return len(self._all)

    def __iter__(self) -> Iterator[Waiting]:
        return iter(self._all.values())

    def __contains__(self, request_id: str) -> bool:
        return request_id in self._all

    def add(self, waiting: Waiting) -> None:
        """Take a request in."""
        self._all[waiting.id] = waiting
        waiting.is_spare = waiting.is_spare or waiting.due_s == inf
        if waiting.is_spare:
            insort(self.spare, waiting, key=by_arrival)
        else:
            insort(self.promised, waiting, key=by_due)

    def remove(self, request_id: str) -> Waiting | None:
        """Take a request out: it is bound, or has ended; None if it isn't here."""
        waiting = self._all.pop(request_id, None)
        if waiting is not None and waiting.is_spare:
            del self.spare[bisect_left(self.spare, by_arrival(waiting), key=by_arrival)]
        elif waiting is not None:
            del self.promised[bisect_left(self.promised, by_due(waiting), key=by_due)]
        return waiting

    def relegate(self, waiting: Waiting) -> None:
        """Its promise is lost."""
        self.remove(waiting.id)
        waiting.is_spare = True
        self.add(waiting)

    def ahead_s(self, due_s: float) -> float:
        """The work of promises that are due by then."""
        return sum(one.work_s for one in islice(self.promised, SELECTED) if one.due_s <= due_s)

    def select(self, fits: Sequence[Fit], scale: float, now_s: float, speed: Speed) -> None:
        """Put off who can't be in time beside the others, given `scale` times these replicas, and
        the speed of the one by which work is priced."""
        chosen = self.promised[:SELECTED]
        before = _put_off_ids(chosen)
        for one in chosen:
            one.is_put_off = False
        chosen.sort(key=by_due)
        self._put_off(chosen, _Supply(fits, scale, now_s, speed.prompt_s), now_s + speed.fixed_s)
        if before != _put_off_ids(chosen):
            self.promised.sort(key=by_due)

    def _put_off(self, chosen: Iterable[Waiting], supply: _Supply, from_s: float) -> None:
        heap: list[tuple[float, int, Waiting]] = []
        own_s = 0.0
        for n, waiting in enumerate(chosen):
            own_s += waiting.work_s
            if waiting.live.request.objective.may_relegate:
                heappush(heap, (-waiting.work_s / waiting.weight, n, waiting))
            room_s = supply.room_s(waiting.due_s, waiting.due_s - from_s)
            while heap and own_s > room_s:
                late = heappop(heap)[2]
                late.is_put_off = True
                own_s -= late.work_s


def _put_off_ids(chosen: Iterable[Waiting]) -> set[str]:
    return {one.id for one in chosen if one.is_put_off}


class _Supply:
    """The time that replicas have for prompts, beside what is bound; at the speed of one that takes
    `unit_s` for what takes each of them its own `prompt_s`."""

    def __init__(self, fits: Sequence[Fit], scale: float, now_s: float, unit_s: float) -> None:
        self._scale = scale
        self._bound: list[tuple[float, float]] = []
        self._free: list[tuple[float, float]] = []  # for how long decodes wait, and of how much
        self._share = self._open = self._spent_s = self._taken_s = 0.0
        for fit in fits:
            speed, share, free_s = unit_s / fit.speed.prompt_s, fit.share(), fit.free_s()
            self._share += speed * share
            self._open += speed * (1 - share)
            self._free.append((free_s, speed * (1 - share)))
            self._taken_s += max(0.0, fit.start_s - now_s) * speed * share
            self._bound += [(due_s, work_s * speed) for due_s, work_s in fit.prompts]
        self._free.sort(reverse=True)
        self._bound.sort(reverse=True)

    def room_s(self, due_s: float, left_s: float) -> float:
        """What is left of it for those that are bound to nobody; due times may not decrease."""
        bound, free = self._bound, self._free
        while bound and bound[-1][0] <= due_s:
            self._taken_s += bound.pop()[1]
        while free and free[-1][0] <= left_s:
            free_s, part = free.pop()
            self._spent_s += part * free_s
            self._open -= part
        total_s = (self._share + self._open) * left_s + self._spent_s
        return self._scale * (total_s - self._taken_s)
