"""How promises fare, tier by tier, as Prometheus metrics. Times are seconds, errors fractions.

All requests with a promise count, the refused and the expired ones too; of an aborted one nobody
knows whether its promise would have been kept. Labels are configured names, never clients' words.
"""

import threading
from collections.abc import Iterable
from functools import partial
from math import nan

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from hfx.engine.account import is_promise
from hfx.engine.delta import Delta
from hfx.engine.observe import StepRecord
from hfx.engine.verdict import TARGETS, Target, Verdict, actual_s, predicted, verdict
from hfx.request import FinishReason, Objective

RULES = ("mean", "cumulative")
REFUSALS = ("slo_infeasible", "overloaded")
OTHER = "other"  # a tier that is not of this server's configuration
_SLACKS_S = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0)
_SLACK_S = (*(-bound for bound in reversed(_SLACKS_S)), 0.0, *_SLACKS_S)
_ERRORS = (-0.9, -0.75, -0.5, -0.3, -0.2, -0.1, -0.05, 0.0, 0.05, 0.1, 0.2, 0.3, 0.5, 1, 2, 5, 10)


class TierMetrics:
    """A `StepObserver` that judges every request's end; `on_refusal` is for the event loop."""

    def __init__(
        self, registry: CollectorRegistry, *, model_name: str, tiers: Iterable[str]
    ) -> None:
        self._registry = registry
        self._labels = {"model_name": model_name, "engine": "0"}
        self._tiers = frozenset((*tiers, OTHER))
        counter, histogram = self._counter, self._histogram
        self._requests = counter("slo_requests", "Requests with a promise that ended, or refused")
        self._met = counter("slo_met", "Promises kept, by the rule for time per token", "rule")
        self._missed = counter("slo_missed", "Targets missed, and why", "target", "cause")
        self._goodput = counter(
            "goodput_tokens", "Output tokens of requests whose promise was kept"
        )
        self._expired = counter("slo_expired", "Requests ended by their hard deadline")
        self._relegated = counter("relegations", "Requests served from spare capacity since then")
        self._refused = counter("refusals", "Requests refused before any work", "reason")
        self._slack = histogram(
            "slo_slack_seconds", "How much earlier than promised; negative is late", _SLACK_S
        )
        self._error = histogram(
            "slo_prediction_error",
            "Distance of what was predicted on arrival from what came, as a fraction of that; "
            "negative: it took longer",
            _ERRORS,
        )
        self._predictions = counter("slo_predictions", "Predictions that came to a test", "target")
        self._covered = counter(
            "slo_predictions_covered", "Those whose upper bound held; 0.95 is wanted", "target"
        )
        self._attainments()

    def _counter(self, name: str, text: str, *extra: str) -> Counter:
        names = (*self._labels, "tier", *extra)
        return Counter(f"hfx:{name}", text, names, registry=self._registry)

    def _histogram(self, name: str, text: str, buckets: tuple[float, ...]) -> Histogram:
        names = (*self._labels, "tier", "target")
        return Histogram(f"hfx:{name}", text, names, buckets=buckets, registry=self._registry)

    def _attainments(self) -> None:
        """Shares since the start, there from the start, so that a dashboard shows every tier."""
        names = (*self._labels, "tier", "rule")
        text = "Share of promises kept since the start, by the rule for time per token"
        self._gauge = Gauge("hfx:slo_attainment", text, names, registry=self._registry)
        self._counts: dict[tuple[str, str], int] = {}
        self._lock = threading.Lock()
        self._show(self._tiers - {OTHER})

    def _show(self, tiers: Iterable[str]) -> None:
        for tier in tiers:
            for rule in RULES:
                child = self._gauge.labels(**self._labels, tier=tier, rule=rule)
                child.set_function(partial(self._attainment, tier, rule))

    def offer(self, tiers: Iterable[str]) -> None:
        """Tiers that are offered from now on; the others keep what was counted."""
        fresh = frozenset(tiers) - self._tiers
        self._tiers |= fresh
        self._show(fresh)

    def _attainment(self, tier: str, rule: str) -> float:
        all_ = self._counts.get((tier, "all"), 0)
        return self._counts.get((tier, rule), 0) / all_ if all_ else nan

    def on_step(self, record: StepRecord) -> None:
        """A step has been carried out."""
        for tier in record.relegated:
            self._relegated.labels(**self._labels, tier=self._known(tier)).inc()

    def on_finish(self, delta: Delta) -> None:
        """A request has ended."""
        assert delta.account is not None
        tier = self._known(delta.account.objective.tier)
        judged = verdict(delta)
        if judged is None:
            return
        self._count(tier, judged)
        if delta.finish_reason is FinishReason.EXPIRED:
            self._expired.labels(**self._labels, tier=tier).inc()
        if judged.is_met:
            self._goodput.labels(**self._labels, tier=tier).inc(delta.output_tokens)
        for target, each in judged.targets.items():
            if each.cause is not None:
                self._missed.labels(
                    **self._labels, tier=tier, target=target, cause=each.cause
                ).inc()
            if each.slack_s is not None:
                self._slack.labels(**self._labels, tier=tier, target=target).observe(each.slack_s)
        for target in TARGETS:
            self._compare(tier, target, delta)

    def on_refusal(self, objective: Objective, reason: str) -> None:
        """A request was refused; one without a promise, too, for want of room."""
        tier = self._known(objective.tier)
        assert reason in REFUSALS
        self._refused.labels(**self._labels, tier=tier, reason=reason).inc()
        if is_promise(objective):
            self._count(tier, None)

    def _known(self, tier: str) -> str:
        return tier if tier in self._tiers else OTHER

    def _count(self, tier: str, judged: Verdict | None) -> None:
        kept = {
            "mean": judged is not None and judged.is_met,
            "cumulative": judged is not None and judged.is_met_cumulatively,
        }
        self._requests.labels(**self._labels, tier=tier).inc()
        for rule, is_kept in kept.items():
            self._met.labels(**self._labels, tier=tier, rule=rule).inc(is_kept)
        with self._lock:
            for name, count in (("all", True), *kept.items()):
                self._counts[tier, name] = self._counts.get((tier, name), 0) + count

    def _compare(self, tier: str, target: Target, delta: Delta) -> None:
        assert delta.account is not None
        expected, took_s = predicted(target, delta.account), actual_s(target, delta)
        whole = delta.finish_reason in (FinishReason.STOP, FinishReason.LENGTH)
        if expected is None or not took_s or not (whole or target == "ttft"):
            return
        labels = {**self._labels, "tier": tier, "target": target}
        self._error.labels(**labels).observe(expected.mean_s / took_s - 1)
        self._predictions.labels(**labels).inc()
        self._covered.labels(**labels).inc(took_s <= expected.upper_s)
