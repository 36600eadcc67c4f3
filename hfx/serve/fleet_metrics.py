"""Each replica of a fleet as Prometheus metrics, read when they are asked for. Seconds."""

from collections.abc import Callable, Iterator

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from hfx.fleet.fleet import Fleet
from hfx.fleet.member import PHASES, Member

_GAUGES: tuple[tuple[str, str, Callable[[Member], float | None]], ...] = (
    (
        "replica_requests",
        "Requests that are bound to a replica",
        lambda m: len(m.standing.flights) if m.standing else None,
    ),
    (
        "replica_prompt_tokens",
        "Prompt tokens that a replica has still to compute",
        lambda m: m.standing.view.prompt_tokens if m.standing else None,
    ),
    (
        "replica_kv_cache_usage_perc",
        "Used share of a replica's cache, 0 to 1",
        lambda m: (
            1 - m.standing.view.free_blocks / m.standing.view.total_blocks if m.standing else None
        ),
    ),
    (
        "replica_slowdown",
        "How many times as long as its profile says a replica's steps take",
        lambda m: m.standing.factor if m.standing else None,
    ),
    (
        "replica_resident_bytes",
        "Memory of a replica's process",
        lambda m: m.life.beat.resident_bytes if m.life and m.life.beat else None,
    ),
    ("replica_epoch", "How many processes have stood for a replica", lambda m: m.epoch),
    (
        "replica_circuit_open",
        "1: it has died so often that it is left alone for a while",
        lambda m: m.backoff.is_open,
    ),
)


class FleetMetrics:
    """A collector over a fleet's members and its requests."""

    def __init__(self, registry: CollectorRegistry, *, model_name: str, fleet: Fleet) -> None:
        self._model = model_name
        self._fleet = fleet
        registry.register(self)

    def collect(self) -> Iterator[Metric]:
        """See prometheus_client."""
        members = self._fleet.members
        labels = ("model_name", "replica")
        phases = GaugeMetricFamily(
            "hfx:replica_state",
            "1 for the state that a replica is in",
            labels=(*labels, "state"),
        )
        for member in members:
            for phase in PHASES:
                phases.add_metric((self._model, str(member.id), phase), member.phase == phase)
        yield phases
        for name, text, read in _GAUGES:
            family = GaugeMetricFamily(f"hfx:{name}", text, labels=labels)
            for member in members:
                value = read(member)
                if value is not None:
                    family.add_metric((self._model, str(member.id)), float(value))
            yield family
        yield self._deaths()
        yield self._restarts()
        yield from self._requests()

    def _deaths(self) -> Metric:
        family = CounterMetricFamily(
            "hfx:replica_deaths",
            "Processes of a replica that were lost, by what showed it",
            labels=("model_name", "replica", "cause"),
        )
        for member in self._fleet.members:
            for cause, count in member.deaths.items():
                family.add_metric((self._model, str(member.id), cause), count)
        return family

    def _restarts(self) -> Metric:
        family = CounterMetricFamily(
            "hfx:replica_restarts",
            "How often a replica's process was replaced, for whatever reason",
            labels=("model_name", "replica"),
        )
        for member in self._fleet.members:
            family.add_metric((self._model, str(member.id)), max(0, member.starts - 1))
        return family

    def _requests(self) -> Iterator[Metric]:
        desk = self._fleet.desk
        for name, text, count in (
            ("resumed", "Requests that went on at another replica", desk.resumed),
            ("stolen", "Requests taken back from a replica that had not begun them", desk.stolen),
            ("condemned", "Requests given up because replicas died of them", desk.condemned),
        ):
            family = CounterMetricFamily(f"hfx:fleet_requests_{name}", text, labels=("model_name",))
            family.add_metric((self._model,), count)
            yield family
        busy = CounterMetricFamily(
            "hfx:fleet_parent_cpu_seconds",
            "Processor time of this process for replicas: messages, decisions, metrics; not HTTP",
            labels=("model_name",),
        )
        busy.add_metric((self._model,), self._fleet.busy_s)
        yield busy
        held = GaugeMetricFamily(
            "hfx:fleet_requests_unbound",
            "Requests that no replica has: queued for one, or held while none is ready",
            labels=("model_name", "where"),
        )
        held.add_metric((self._model, "queue"), desk.waiting - desk.held)
        held.add_metric((self._model, "held"), desk.held)
        yield held
