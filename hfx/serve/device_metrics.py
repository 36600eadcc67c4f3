"""What a device's kernels cost the start, and must not cost while serving; whether it is one."""

from collections.abc import Callable, Iterator, Mapping

from prometheus_client import CollectorRegistry, Gauge, Histogram
from prometheus_client.core import CounterMetricFamily

from hfx.cost import CostModel
from hfx.engine.delta import Delta
from hfx.engine.observe import StepRecord

_HOST_S = (0.0001, 0.00025, 0.0005, 0.001, 0.0015, 0.002, 0.003, 0.005, 0.01, 0.02, 0.05)
_IDLE_S = 0.1  # after so long without a step nobody was there


class CompilationMetrics:
    """Compilations by phase, read when they are asked for; counts are the whole process's."""

    def __init__(
        self,
        registry: CollectorRegistry,
        *,
        model_name: str,
        counts: Callable[[], Mapping[str, int]],
    ) -> None:
        self._labels = {"model_name": model_name, "engine": "0"}
        self._counts = counts
        registry.register(self)

    def collect(self) -> Iterator[CounterMetricFamily]:
        """See prometheus_client."""
        family = CounterMetricFamily(
            "hfx:compilations",
            "Kernels that were compiled; while serving, none should be",
            labels=(*self._labels, "phase"),
        )
        for phase, count in self._counts().items():
            family.add_metric((*self._labels.values(), phase), count)
        yield family


def emulation_metric(registry: CollectorRegistry, *, model_name: str, profile: str) -> None:
    """Mark every figure of this server as one of a device that isn't there."""
    marked = Gauge(
        "hfx:emulated",
        "1: the device is emulated, and its figures are those of its cost profile",
        ("model_name", "engine", "profile"),
        registry=registry,
    )
    marked.labels(model_name=model_name, engine="0", profile=profile).set(1)


class HostMetrics:
    """What steps cost the host of an emulated device, which waits meanwhile; a `StepObserver`.

    From a step's begin to the next one's, less what the device computes: planning, sampled tokens,
    arrivals. Only while somebody decodes, because then the next step begins at once.
    """

    def __init__(self, registry: CollectorRegistry, *, model_name: str, cost: CostModel) -> None:
        names = ("model_name", "engine", "regime")
        waits = Histogram(
            "hfx:emulated_host_seconds",
            "How long one step kept an emulated device waiting for its host",
            names,
            buckets=_HOST_S,
            registry=registry,
        )
        self._waits = {r: waits.labels(model_name, "0", r) for r in ("decode", "mixed")}
        self._cost = cost
        self._last: StepRecord | None = None

    def on_step(self, record: StepRecord) -> None:
        """A step has been carried out."""
        last, self._last = self._last, record
        if last is None or not record.mix.decodes:
            return
        device_s = self._cost.step_s(last.mix).mean_s
        host_s = record.started_s - last.started_s - device_s
        if host_s < _IDLE_S:
            regime = "mixed" if last.mix.prefill_tokens else "decode"
            self._waits[regime].observe(max(0.0, host_s))

    def on_finish(self, delta: Delta) -> None:
        """Ends of requests say nothing about steps."""
