"""What a device's kernels cost the start, and must not cost while serving; whether it is one."""

from collections.abc import Callable, Iterator, Mapping

from prometheus_client import CollectorRegistry, Gauge
from prometheus_client.core import CounterMetricFamily


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
