"""Which replicas host which streams, and which compute prompts only; changed rarely. Seconds.

A replica must iterate as often as its tightest stream asks for, and pays the fixed cost of a step
each time; so streams of a kind are kept together, and prompts apart from them, where that carries
more of the traffic that arrived of late (`dispatch_program`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import inf

from hfx.cost import CostModel

from .dispatch_program import (
    PROMPTS_ONLY,
    Load,
    Program,
    Shares,
    Way,
    alike_growth,
    prompts_only,
    ways,
)

MEMORY_S = 30.0  # over which arrivals are averaged
GAIN = 1.04  # that other roles must promise before anybody changes
CHANGED = 0.15  # of the traffic of a tier: from there on other roles are looked for
LIGHT = 1.35  # times the traffic that would fit without any roles: up to there they are not needed
APART = 1.3  # times the traffic that would fit with prompts beside streams: up to there they stay
LONG_TOKENS = 4096  # before a token of a prompt: longer ones stand in the way of streams anyway
MOST_TIERS = 8
LONGEST_S = 1.0  # of a time per token: looser ones, or none, are alike


@dataclass(slots=True)
class _Tier:
    """Averages per second, not yet divided by the share of the memory that is filled."""

    prompt_tokens: float = 0.0
    output_tokens: float = 0.0


@dataclass(frozen=True, slots=True)
class Roles:
    """What each replica does, in the fleet's order: the tightest time per token that it hosts.

    0 hosts all; infinite hosts none and hands its streams on.
    """

    paces: tuple[float, ...] = ()

    @property
    def is_apart(self) -> bool:
        """Whether some compute prompts only, so that a prompt may be computed anywhere."""
        return bool(self.paces) and self.paces[-1] == inf

    def pace_s(self, place: int) -> float:
        """What the replica at that place hosts."""
        return self.paces[place] if place < len(self.paces) else 0.0


@dataclass(frozen=True, slots=True)
class _Choice:
    """Roles, and how many times the traffic they carry."""

    roles: Roles
    growth: float


class Traffic:
    """What arrives, by time per token, on average over the last `MEMORY_S`."""

    def __init__(self) -> None:
        self._tiers: dict[float, _Tier] = {}
        self._seen_s = 0.0
        self._filled = 0.0
        self._outputs = self._tokens = self._prompts = self._squares = 0.0

    def arrived(self, tpot_s: float, prompt: int, output: float, now_s: float) -> None:
        """Count a request."""
        self._fade(now_s)
        tier = self._tier(min(tpot_s, LONGEST_S))
        tier.prompt_tokens += prompt / MEMORY_S
        tier.output_tokens += output / MEMORY_S
        self._outputs += output / MEMORY_S
        self._tokens += output * (prompt + output / 2) / MEMORY_S
        self._prompts += prompt / MEMORY_S
        self._squares += prompt * prompt / MEMORY_S

    def loads(self, now_s: float) -> list[Load]:
        """The averages, tightest first."""
        self._fade(now_s)
        if not self._filled:
            return []
        return [
            Load(tpot_s, tier.prompt_tokens / self._filled, tier.output_tokens / self._filled)
            for tpot_s, tier in sorted(self._tiers.items())
            if tier.prompt_tokens > 0
        ]

    @property
    def context_tokens(self) -> int:
        """Of an output token, on average over all of them."""
        return max(1, round(self._tokens / self._outputs)) if self._outputs else 1

    @property
    def history_tokens(self) -> int:
        """Before a token of a prompt, on average over all of them."""
        return round(self._squares / self._prompts / 2) if self._prompts else 0

    def _tier(self, tpot_s: float) -> _Tier:
        tier = self._tiers.get(tpot_s)
        if tier is None:
            if len(self._tiers) >= MOST_TIERS:
                tighter = [known for known in self._tiers if known <= tpot_s]
                tpot_s = max(tighter, default=min(self._tiers))
            tier = self._tiers.setdefault(tpot_s, _Tier())
        return tier

    def _fade(self, now_s: float) -> None:
        kept = max(0.0, 1 - (now_s - self._seen_s) / MEMORY_S)
        self._filled = self._filled * kept + (1 - kept)
        self._outputs *= kept
        self._tokens *= kept
        self._prompts *= kept
        self._squares *= kept
        for tier in self._tiers.values():
            tier.prompt_tokens *= kept
            tier.output_tokens *= kept
        self._seen_s = now_s


class Chooser:
    """Chooses roles for the traffic there is, and keeps them where others would carry little more.

    It asks the program only where the traffic has changed.
    """

    def __init__(self) -> None:
        self.traffic = Traffic()
        self.roles = Roles()
        self._asked: tuple[object, ...] = ()
        self._loads: list[Load] = []
        self._ways: list[Way] = []
        self._hosted: list[Way] = []

    def look(self, cost: CostModel, replicas: int, now_s: float, *, moves: bool) -> Roles:
        """The roles from now on."""
        loads = self.traffic.loads(now_s)
        if not loads or replicas < 2:
            self.roles, self._asked = Roles(), ()
            return self.roles
        asked = (replicas, moves, tuple(load.tpot_s for load in loads))
        if asked != self._asked or _differ(loads, self._loads):
            self._asked, self._loads = asked, loads
            tokens = self.traffic.context_tokens, self.traffic.history_tokens
            self._ways = ways(cost, asked[2], *tokens)
            self._hosted = ways(cost, asked[2], *tokens, moves=True) if moves else []
            self.roles = self._choose(cost, replicas, moves)
        return self.roles

    def _choose(self, cost: CostModel, replicas: int, moves: bool) -> Roles:
        found, now = self._ways, self.roles
        loads = _hostable(self._loads, found)
        light = LIGHT if not now.paces else LIGHT * GAIN
        if alike_growth(loads, found, replicas) >= light:
            return Roles()
        history = self.traffic.history_tokens
        if not moves or history <= LONG_TOKENS:
            together = self._better(Program(loads, found, moves=False), replicas, now)
            if not moves or together.growth >= (APART * GAIN if now.is_apart else APART):
                return together.roles
        loads = _hostable(self._loads, self._hosted)
        found = [*self._hosted, prompts_only(cost, history)]
        return self._better(Program(loads, found, moves=True), replicas, now).roles

    def _better(self, program: Program, replicas: int, now: Roles) -> _Choice:
        """The roles that carry most; the present ones, where that is little more."""
        best = program.best(replicas)
        if best is None:
            return _Choice(Roles(), 0.0)
        if len(now.paces) == replicas:
            growth = program.growth(_shares(now))
            if growth * GAIN >= best.growth:
                return _Choice(now, growth)
        return _Choice(Roles(_paces(best)), best.growth)


def _hostable(loads: Sequence[Load], found: Sequence[Way]) -> list[Load]:
    """The loads, those that ask for a faster pace than anybody has counted with the tightest that
    can be had: their promise is lost, and they are served all the same."""
    fastest_s = min((way.tier_s for way in found), default=0.0)
    joined: dict[float, Load] = {}
    for load in loads:
        tpot_s = max(load.tpot_s, fastest_s)
        other = joined.get(tpot_s, Load(tpot_s, 0.0, 0.0))
        joined[tpot_s] = Load(
            tpot_s,
            other.prompt_tokens + load.prompt_tokens,
            other.output_tokens + load.output_tokens,
        )
    return list(joined.values())


def _differ(loads: Sequence[Load], others: Sequence[Load]) -> bool:
    """Whether some of it has become more, or less, by so much that it is worth a look."""
    pairs = [(a.prompt_tokens, b.prompt_tokens) for a, b in zip(loads, others, strict=True)]
    pairs += [(a.output_tokens, b.output_tokens) for a, b in zip(loads, others, strict=True)]
    return any(abs(a - b) > CHANGED * max(a, b) for a, b in pairs)


def _paces(shares: Shares) -> tuple[float, ...]:
    return tuple(
        inf if tier_s == PROMPTS_ONLY else tier_s
        for tier_s, count in shares.tiers
        for _ in range(count)
    )


def _shares(roles: Roles) -> Mapping[float, int]:
    return Counter(PROMPTS_ONLY if pace_s == inf else pace_s for pace_s in roles.paces)
