"""The prices of a running engine: asked before every step, corrected after it. Seconds."""

import threading
from collections.abc import Mapping
from dataclasses import dataclass, replace

from hfx.cost import Accuracy, Estimate, OnlineCost, Regime, StepCost
from hfx.cost.fitting import scaled
from hfx.request import Mix


@dataclass(frozen=True, slots=True)
class Origin:
    """Where an engine's prices come from: `kind` in a word for labels, and the whole story."""

    kind: str  # file, saved, preset, calibrated, quick, emulated
    text: str


class LiveCost:
    """A cost model and its online correction.

    `predict`, `learn` and `online` are for the engine's thread, the rest for any thread.
    """

    def __init__(self, model: StepCost, origin: Origin) -> None:
        self.model = model  # as it was at the start
        self.origin = origin
        self.online = OnlineCost(model)
        self._lock = threading.Lock()

    def predict(self, mix: Mix) -> Estimate:
        """How long a step that does `mix` will take."""
        return self.online.step_s(mix)

    def learn(self, mix: Mix, seconds: float) -> None:
        """Take in how long it took; no time at all, as on a virtual clock, teaches nothing."""
        if seconds > 0:
            with self._lock:
                self.online.observe(mix, seconds)

    @property
    def accuracy(self) -> Mapping[str, Accuracy]:
        """How well each regime's recent steps were predicted."""
        with self._lock:
            return self.online.accuracy

    def snapshot(self) -> StepCost:
        """The prices as corrected until now: a model of its own that no later step changes."""
        now = self.accuracy
        return replace(
            self.model,
            decode=_corrected(self.model.decode, now["decode"]),
            mixed=_corrected(self.model.mixed, now["mixed"]),
        )

    def __str__(self) -> str:
        return self.origin.text


def quality(model: StepCost) -> str:
    """A model's error and coverage by regime, in one line."""
    parts = (
        f"{name} MAPE {fit.mape:.1%}, p90 {fit.p90:.1%}, coverage {fit.coverage:.0%}"
        for name, fit in model.report.items()
    )
    return "; ".join(parts) or "never compared with measured steps"


def _corrected(regime: Regime, now: Accuracy) -> Regime:
    return scaled(regime, now.factor, max(1.0, now.bound))
