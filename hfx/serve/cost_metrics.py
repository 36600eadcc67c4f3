"""How well steps were predicted, as Prometheus metrics. Times are seconds, errors fractions."""

from functools import partial
from math import nan

from prometheus_client import CollectorRegistry, Gauge, Histogram, Info

from hfx.engine.delta import Delta
from hfx.engine.observe import StepRecord
from hfx.engine.service import Prices

from .metrics import STEP_S

REGIMES = ("decode", "mixed")
_ERRORS = (0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.5, 1, 2)


class CostMetrics:
    """An engine's predictions beside what its steps took; a `StepObserver`."""

    def __init__(self, registry: CollectorRegistry, *, model_name: str, cost: Prices) -> None:
        labels = {"model_name": model_name, "engine": "0"}
        names = (*labels, "regime")
        predicted = Histogram(
            "hfx:predicted_step_seconds",
            "Length of one step as predicted before it ran; compare hfx:step_duration_seconds",
            tuple(labels),
            buckets=STEP_S,
            registry=registry,
        )
        error = Histogram(
            "hfx:step_prediction_error",
            "Distance of a step's predicted length from the actual one, as a fraction of that",
            names,
            buckets=_ERRORS,
            registry=registry,
        )
        coverage = Gauge(
            "hfx:step_prediction_coverage",
            "Share of recent steps within their predicted upper bound; 0.95 is wanted",
            names,
            registry=registry,
        )
        self._predicted = predicted.labels(**labels)
        self._error = {name: error.labels(**labels, regime=name) for name in REGIMES}
        for name in REGIMES:
            child = coverage.labels(**labels, regime=name)
            child.set_function(partial(_coverage, cost, name))
        info = Info(
            "hfx:cost_model", "Where the prices of steps come from", names[:2], registry=registry
        )
        info.labels(**labels).info(_described(cost))

    def on_step(self, record: StepRecord) -> None:
        """A step has been carried out."""
        if record.predicted is None or not record.duration_s > 0:
            return
        mean_s = record.predicted.mean_s
        self._predicted.observe(mean_s)
        error = abs(mean_s / record.duration_s - 1)
        self._error["mixed" if record.mix.prefill_tokens else "decode"].observe(error)

    def on_finish(self, delta: Delta) -> None:
        """Ends of requests say nothing about steps."""


def _coverage(cost: Prices, regime: str) -> float:
    now = cost.accuracy[regime]
    return now.coverage if now.steps else nan


def _described(cost: Prices) -> dict[str, str]:
    key = cost.model.key
    return {
        "origin": cost.origin.kind,
        "source": cost.model.source,
        "device": key.device,
        "profiled_model": key.model,
        "dtype": key.dtype,
        "tensor_parallel": str(key.tensor_parallel),
        "version": key.version,
    }
