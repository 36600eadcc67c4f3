"""A fleet's prices as its server shows them: those of one replica, as that corrects them."""

from __future__ import annotations

from collections.abc import Mapping

from hfx.cost import Accuracy, StepCost
from hfx.engine.live_cost import Origin

from .messages import Regime

_UNSEEN = Accuracy(0, 0.0, 0.0, 1.0, 1.0)


class FleetCost:
    """Stands where an engine has a `LiveCost`: `model` as it was at the start, and what is now."""

    def __init__(self, model: StepCost, origin: Origin) -> None:
        self.model = model
        self.origin = origin
        self._now = model
        self._accuracy: dict[str, Accuracy] = {"decode": _UNSEEN, "mixed": _UNSEEN}

    def hear(self, now: StepCost, decode: Regime | None, mixed: Regime | None) -> None:
        """The replica's present prices, and how well they predict."""
        self._now = now
        for name, regime in (("decode", decode), ("mixed", mixed)):
            if regime is not None:
                self._accuracy[name] = Accuracy(
                    *(regime.steps, regime.mape, regime.coverage, regime.factor, regime.bound)
                )

    @property
    def accuracy(self) -> Mapping[str, Accuracy]:
        """How well each regime's recent steps were predicted."""
        return self._accuracy

    def snapshot(self) -> StepCost:
        """The prices as corrected until now."""
        return self._now

    def __str__(self) -> str:
        return self.origin.text
