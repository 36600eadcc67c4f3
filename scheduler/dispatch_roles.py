"""Which replicas serve tight promises: groups by time per token, sized by what arrives. Seconds.

A replica must iterate as often as its tightest stream asks for, and pays the fixed cost of a step
each time; so streams of a kind are kept together where that leaves the fleet more room. A fluid
count over the tiers that arrived of late says how many replicas the tight ones need.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import inf

from .track import RUN_RATE

MEMORY_S = 20.0  # over which arrivals are averaged
HEADROOM = 1.15  # that tight promises get beyond their mean, since they can't wait
GAIN = 1.03  # that other groups must promise before anybody changes
MOST_TIERS = 16


@dataclass(slots=True)
class _Tier:
    work_s: float = 0.0  # of its prompts and outputs, per second
    seen_s: float = 0.0

    def fade(self, now_s: float) -> None:
        self.work_s *= max(0.0, 1 - (now_s - self.seen_s) / MEMORY_S)
        self.seen_s = now_s


@dataclass(frozen=True, slots=True)
class Roles:
    """The first `replicas` serve streams of at most `tpot_s`, and others when they have time."""

    replicas: int = 0
    tpot_s: float = 0.0


class Tiers:
    """What arrives, by time per token; and the roles that suit it."""

    def __init__(self) -> None:
        self.roles = Roles()
        self._tiers: dict[float, _Tier] = {}

    def arrived(self, tpot_s: float, work_s: float, now_s: float) -> None:
        """Count a request whose prompt and output take `work_s` beside others'."""
        tier = self._tiers.get(tpot_s)
        if tier is None:
            if len(self._tiers) >= MOST_TIERS:
                tpot_s = min(self._tiers, key=lambda known: abs(known - min(tpot_s, 1e9)))
            tier = self._tiers.setdefault(tpot_s, _Tier(seen_s=now_s))
        tier.fade(now_s)
        tier.work_s += work_s / MEMORY_S

    def choose(self, now_s: float, replicas: int, fixed_s: float) -> Roles:
        """The roles for that many replicas, changed only where it is worth it."""
        for tier in self._tiers.values():
            tier.fade(now_s)
        work = {tpot_s: tier.work_s for tpot_s, tier in sorted(self._tiers.items())}
        total = sum(work.values())
        if total <= 0 or replicas < 2:
            self.roles = Roles()
            return self.roles
        options = [Roles()]
        for tpot_s in list(work)[:-1]:
            options += [Roles(count, tpot_s) for count in range(1, replicas)]
        best = max(options, key=lambda roles: self._room(roles, work, replicas, fixed_s))
        now = self._room(self.roles, work, replicas, fixed_s)
        if self.roles.replicas >= replicas or (
            self._room(best, work, replicas, fixed_s) > GAIN * now
        ):
            self.roles = best
        return self.roles

    def _room(
        self, roles: Roles, work: Mapping[float, float], replicas: int, fixed_s: float
    ) -> float:
        """By how much all traffic could grow under some roles."""
        tight = [tpot_s for tpot_s in work if tpot_s <= roles.tpot_s]
        loose = [tpot_s for tpot_s in work if tpot_s > roles.tpot_s]
        if not tight or not roles.replicas:
            return replicas * _share(fixed_s, min(work)) / sum(work.values())
        few = roles.replicas * _share(fixed_s, min(tight))
        rest = (replicas - roles.replicas) * _share(fixed_s, min(loose, default=inf))
        own = sum(work[tpot_s] for tpot_s in tight)
        grown = few / (HEADROOM * own) if own else inf
        return min(grown, (few + rest) / sum(work.values()))


def _share(fixed_s: float, tpot_s: float) -> float:
    """Of a replica's time, what the fixed cost of steps at that pace leaves."""
    return max(0.05, 1 - fixed_s / (RUN_RATE * tpot_s))
