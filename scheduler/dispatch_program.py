"""How many replicas should do what: a small linear program over ways of running them.

A way of running a replica is a tier, the time per token of the tightest streams that it hosts, a
step's length within it and how many decodes share the step; the cost model says how many prompt
tokens fit beside them. Or it computes prompts only, and hands every stream on. The program finds
the mix of ways that carries most times the present traffic. Seconds, tokens.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations_with_replacement

from hfx.cost import CostModel
from hfx.request import Mix

from .dispatch_fit import STEP_TOKENS

LENGTHS = (0.95, 0.7, 0.5)  # of the time per token: steps that are tried,
HOSTED = (0.75, 0.6, 0.45)  # and where streams come late, because they were moved
FILLS = (0.15, 0.3, 0.45, 0.6, 0.75, 0.9, 1.0)  # of the decodes that such a step could hold
MOST_DECODES = 256
MOST_ROUNDED = 4  # tiers that may be rounded up
ROUNDING = 1e-6
HEADROOM = 1.15  # that tight promises get beyond their mean, since they can't wait
PROMPTS_ONLY = 0.0  # the tier of replicas that host no stream


@dataclass(frozen=True, slots=True)
class Load:
    """What arrives of one tier, per second: prompt and output tokens."""

    tpot_s: float
    prompt_tokens: float
    output_tokens: float


@dataclass(frozen=True, slots=True)
class Way:
    """What a replica run that way gets done per second."""

    tier_s: float
    prompt_tokens: float
    output_tokens: float


@dataclass(frozen=True, slots=True)
class Shares:
    """How many replicas each tier has, tightest first, those for prompts only at the end; and how
    many times the present traffic they carry."""

    tiers: tuple[tuple[float, int], ...]
    growth: float


def ways(
    cost: CostModel,
    tiers: Sequence[float],
    context_tokens: int,
    history_tokens: int,
    *,
    moves: bool = False,
) -> list[Way]:
    """Every way of running a replica, without those for prompts only.

    Streams have that context and prompts that history, on average over their tokens.
    """
    found = []
    for tier_s in tiers:
        for length in HOSTED if moves else LENGTHS:
            step_s = min(length * tier_s, 1.0)
            most = _most_decodes(cost, step_s, context_tokens)
            for count in sorted({int(fill * most) for fill in FILLS} - {0}):
                beside = Mix(count, count * context_tokens)
                room = STEP_TOKENS - count
                fits = cost.prefill_tokens_within(step_s, beside, history_tokens, upper=False)
                prompt = max(0, min(room, fits))
                took_s = step_s if fits <= room else _took_s(cost, beside, room, history_tokens)
                found.append(Way(tier_s, prompt / took_s, count / took_s))
    return [way for way in found if not any(_is_better(other, way) for other in found)]


def _is_better(one: Way, other: Way) -> bool:
    """Whether a way yields more of both than another one of its tier."""
    return (
        one.tier_s == other.tier_s
        and one.prompt_tokens >= other.prompt_tokens
        and one.output_tokens >= other.output_tokens
        and one != other
    )


def alike_growth(loads: Sequence[Load], found: Sequence[Way], replicas: int) -> float:
    """How many times the traffic replicas carry that all host the tightest streams, at least."""
    prompts = sum(load.prompt_tokens for load in loads)
    outputs = sum(load.output_tokens for load in loads)
    tightest_s = loads[0].tpot_s
    return max(
        (
            replicas * min(way.prompt_tokens / prompts, way.output_tokens / outputs)
            for way in found
            if way.tier_s == tightest_s
        ),
        default=0.0,
    )


def prompts_only(cost: CostModel, history_tokens: int) -> Way:
    """A replica that hands every stream on."""
    step_s = _took_s(cost, Mix(), STEP_TOKENS, history_tokens)
    return Way(PROMPTS_ONLY, STEP_TOKENS / step_s, 0.0)


def _took_s(cost: CostModel, beside: Mix, tokens: int, history_tokens: int) -> float:
    return cost.step_s(beside + Mix.one(max(2, tokens), history_tokens)).mean_s


def _most_decodes(cost: CostModel, step_s: float, context_tokens: int) -> int:
    low, high = 0, MOST_DECODES
    while low < high:
        middle = (low + high + 1) // 2
        fits = cost.step_s(Mix(middle, middle * context_tokens)).mean_s <= step_s
        low, high = (middle, high) if fits else (low, middle - 1)
    return low


class Program:
    """The question for some traffic, given tightest first, and some ways.

    With `moves` a stream may be hosted elsewhere than where its prompt was computed. Variables are
    the replicas run each way, the replicas of each tier, and the growth.
    """

    def __init__(self, loads: Sequence[Load], found: Sequence[Way], *, moves: bool) -> None:
        self.ways = found
        self.tiers = sorted({way.tier_s for way in found}, key=lambda s: (s == PROMPTS_ONLY, s))
        self._rows: list[list[float]] = []  # what the ways yield, less what is needed: at least 0
        prompts = outputs = 0.0
        for load in loads:
            prompts += load.prompt_tokens
            outputs += load.output_tokens
            is_last = load is loads[-1]
            head = 1.0 if is_last else HEADROOM
            able = [0.0 < way.tier_s <= load.tpot_s for way in found]
            yields = [way.output_tokens * can for way, can in zip(found, able, strict=True)]
            self._rows.append([*yields, -outputs * head])
            if is_last or not moves:
                can = [True] * len(found) if moves else able
                yields = [way.prompt_tokens * c for way, c in zip(found, can, strict=True)]
                self._rows.append([*yields, -prompts * head])

    def best(self, replicas: int) -> Shares | None:
        """The shares that carry most; None where none carry any of the traffic.

        The best fractions of replicas, rounded in the way that carries most: small fleets lose much
        by a wrong one.
        """
        values = self._solve([[*[1.0] * len(self.ways), 0.0]], [float(replicas)])
        if values[-1] <= ROUNDING:  # somebody asks for what no way yields
            return None
        counts = [
            sum(values[n] for n, way in enumerate(self.ways) if way.tier_s == tier_s)
            for tier_s in self.tiers
        ]
        whole = [int(count + ROUNDING) for count in counts]
        order = sorted(range(len(counts)), key=lambda n: whole[n] - counts[n])[:MOST_ROUNDED]
        options = []
        for chosen in combinations_with_replacement(order, replicas - sum(whole)):
            counted = Counter(chosen)
            tiers = {s: whole[n] + counted[n] for n, s in enumerate(self.tiers)}
            options.append(Shares(tuple(tiers.items()), self.growth(tiers)))
        best = max(options, key=lambda shares: shares.growth, default=None)
        return best if best is not None and best.growth > 0 else None

    def growth(self, shares: Mapping[float, int]) -> float:
        """How many times the present traffic some shares carry."""
        members = [
            [*(float(way.tier_s == tier_s) for way in self.ways), 0.0] for tier_s in self.tiers
        ]
        return self._solve(members, [float(shares.get(tier_s, 0)) for tier_s in self.tiers])[-1]

    def _solve(self, members: list[list[float]], limits: list[float]) -> list[float]:
        """How many replicas are best run each way, within limits; and the growth."""
        from scipy.optimize import linprog  # slow to import, and often not needed

        rows = [[-value for value in row] for row in self._rows]
        aim = [0.0] * len(self.ways) + [-1.0]
        answer = linprog(
            aim, A_ub=[*rows, *members], b_ub=[0.0] * len(rows) + limits, method="highs"
        )
        if answer.x is None:
            return [0.0] * len(aim)
        return [float(value) for value in answer.x]
