"""Which tiers this device can serve as promised while it has nothing else to do, and the best of
the others. Seconds inside, milliseconds outside."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from hfx.config import Tier
from hfx.cost import CostModel
from hfx.request import Objective, Refused
from hfx.scheduler.admission import reachable

from .tiers import TARGETS

# What most chats are. Longer prompts take longer, and /v1/estimate says how long.
PROMPT_TOKENS, OUTPUT_TOKENS = 512, 128


@dataclass(frozen=True, slots=True)
class Reach:
    """A tier, and why an idle server can't keep its promise; `is_known` needs a cost model."""

    tier: Tier
    refused: Refused | None
    is_known: bool

    @property
    def card(self) -> dict[str, Any]:
        """The tier as `/v1/tiers` shows it."""
        tier = self.tier
        best = self.refused.feasible if self.refused else {}
        return {
            "name": tier.name,
            **{f"{name}_ms": _ms(getattr(tier, f"{name}_s")) for name in TARGETS},
            "weight": tier.weight,
            "may_refuse": tier.may_refuse,
            "may_relegate": tier.may_relegate,
            "feasible": self.refused is None if self.is_known else None,
            "reachable": {name[:-2] + "_ms": _ms(best_s) for name, best_s in best.items()},
        }

    @property
    def warning(self) -> str | None:
        """A line for the log where the promise can't be kept."""
        if self.refused is None:
            return None
        best = ", ".join(f"{k[:-2]} {_ms(v)} ms" for k, v in self.refused.feasible.items())
        return f"tier {self.tier.name}: {self.refused.reason}; reachable together: {best}"


def reach(tiers: Iterable[Tier], cost: CostModel | None, max_step_tokens: int) -> tuple[Reach, ...]:
    """Each tier with what an idle device makes of it, in steps of so many tokens at most."""
    return tuple(_reach(tier, cost, max_step_tokens) for tier in tiers)


def _reach(tier: Tier, cost: CostModel | None, max_step_tokens: int) -> Reach:
    objective = Objective(
        ttft_s=tier.ttft_s, tpot_s=tier.tpot_s, deadline_s=tier.deadline_s, tier=tier.name
    )
    if cost is None:
        return Reach(tier, None, False)
    refused = reachable(objective, cost, PROMPT_TOKENS, OUTPUT_TOKENS, max_step_tokens)
    return Reach(tier, refused, True)


def _ms(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds * 1000, 3)
