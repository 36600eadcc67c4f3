"""Prometheus metrics: vLLM's names with the prefix `hfx:`, so that dashboards map by prefix.

Times are seconds. Counters are fed by the engine's thread and by the event loop; gauges are read
from the engine when they are asked for, so that an idle server shows idle numbers.
"""

from collections.abc import Callable

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    Info,
    disable_created_metrics,
    generate_latest,
)

from hfx.engine.delta import Delta
from hfx.engine.observe import EngineStats, StepRecord
from hfx.request import FinishReason

_TTFT_S = (
    *(0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5),
    *(10, 20, 40, 80, 160, 640, 2560),
)
_TOKEN_S = (
    *(0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1),
    *(2.5, 5, 7.5, 10, 20, 40, 80),
)
_REQUEST_S = (
    *(0.001, 0.005, 0.01, 0.05, 0.1, 0.3, 0.5, 0.8, 1, 1.5, 2, 2.5, 5, 10, 15, 20, 30, 40),
    *(50, 60, 120, 240, 480, 960, 1920, 7680),
)
STEP_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.15, 0.2, 0.3, 0.5, 1, 2.5, 5)
_LENGTHS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10000, 20000, 50000, 100000)
_STEP_TOKENS = (1, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384)
_COUNTS = (1, 2, 5, 10, 20, 50, 100)

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class HttpMetrics:
    """What is known before there is a model: answers by status, and how long the start took."""

    def __init__(self, paths: frozenset[str]) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self.registry = CollectorRegistry()
        self._paths = paths
        self._responses = Counter(
            "hfx:http_responses",
            "HTTP responses",
            ("method", "path", "code"),
            registry=self.registry,
        )
        self._rejections = Counter(
            "hfx:admission_rejections",
            "Requests answered with 429 or 503",
            ("reason",),
            registry=self.registry,
        )
        self._start = Gauge(
            "hfx:start_phase_seconds",
            "How long each phase of the start took",
            ("phase",),
            registry=self.registry,
        )

    def count(self, method: str, path: str, code: int) -> None:
        """One response; paths and methods that are not served share a label."""
        path = path if path in self._paths else "other"
        method = method if method in ("GET", "POST", "PUT", "HEAD", "OPTIONS") else "other"
        self._responses.labels(method, path, str(code)).inc()

    def reject(self, reason: str) -> None:
        """One request that was not served for lack of room or readiness."""
        self._rejections.labels(reason).inc()

    def started(self, phases: dict[str, float]) -> None:
        """Seconds by phase."""
        for phase, seconds in phases.items():
            self._start.labels(phase).set(seconds)

    def text(self) -> bytes:
        """The exposition format."""
        return generate_latest(self.registry)


class EngineMetrics:
    """One engine's counters and histograms; a `StepObserver`, so safe from the engine's thread."""

    def __init__(
        self,
        registry: CollectorRegistry,
        *,
        model_name: str,
        stats: Callable[[], EngineStats],
        cache: dict[str, str],
    ) -> None:
        self._registry = registry
        self._labels = {"model_name": model_name, "engine": "0"}
        self._gauges(stats)
        info = Info(
            "hfx:cache_config", "Cache configuration", tuple(self._labels), registry=registry
        )
        info.labels(**self._labels).info(cache)

        self._preemptions = self._counter("num_preemptions", "Preemptions")
        self._queries = self._counter("prefix_cache_queries", "Prompt tokens looked up")
        self._hits = self._counter("prefix_cache_hits", "Prompt tokens found in the prefix cache")
        self._prompt = self._counter("prompt_tokens", "Prompt tokens of requests that have begun")
        self._generation = self._counter("generation_tokens", "Tokens generated")
        self._endings = self._endings_by_reason()

        self._step_tokens = self._histogram(
            "iteration_tokens_total", "Tokens computed in one step", _STEP_TOKENS
        )
        self._step = self._histogram("step_duration_seconds", "Length of one step", STEP_S)
        self._first = self._histogram(
            "time_to_first_token_seconds", "Arrival to first token", _TTFT_S
        )
        self._gap = self._histogram("inter_token_latency_seconds", "Token to token", _TOKEN_S)
        self._mean_gap = self._histogram(
            "request_time_per_output_token_seconds", "Mean time per later token", _TOKEN_S
        )
        self._total = self._histogram(
            "e2e_request_latency_seconds", "Arrival to last token", _REQUEST_S
        )
        self._queue = self._histogram("request_queue_time_seconds", "Waiting", _REQUEST_S)
        self._prefill = self._histogram(
            "request_prefill_time_seconds", "First scheduled to first token", _REQUEST_S
        )
        self._decode = self._histogram(
            "request_decode_time_seconds", "First to last token", _REQUEST_S
        )
        self._inference = self._histogram(
            "request_inference_time_seconds", "First scheduled to last token", _REQUEST_S
        )
        self._prompt_length = self._histogram("request_prompt_tokens", "Prompt length", _LENGTHS)
        self._output_length = self._histogram(
            "request_generation_tokens", "Output length", _LENGTHS
        )
        self._n = self._histogram("request_params_n", "Parameter n", _COUNTS)
        self._max_tokens = self._histogram(
            "request_params_max_tokens", "Parameter max_tokens", _LENGTHS
        )

    def _counter(self, name: str, text: str) -> Counter:
        made = Counter(f"hfx:{name}", text, tuple(self._labels), registry=self._registry)
        return made.labels(**self._labels)

    def _histogram(self, name: str, text: str, buckets: tuple[float, ...]) -> Histogram:
        made = Histogram(
            f"hfx:{name}", text, tuple(self._labels), buckets=buckets, registry=self._registry
        )
        return made.labels(**self._labels)

    def _endings_by_reason(self) -> dict[FinishReason, Counter]:
        made = Counter(
            "hfx:request_success",
            "Requests that ended, by reason",
            (*self._labels, "finished_reason"),
            registry=self._registry,
        )
        return {
            reason: made.labels(**self._labels, finished_reason=reason.value)
            for reason in FinishReason
        }

    def _gauges(self, stats: Callable[[], EngineStats]) -> None:
        def gauge(name: str, text: str, read: Callable[[EngineStats], float]) -> None:
            made = Gauge(f"hfx:{name}", text, tuple(self._labels), registry=self._registry)
            made.labels(**self._labels).set_function(lambda: read(stats()))

        gauge("num_requests_running", "Requests that run", lambda now: now.running)
        gauge("num_requests_waiting", "Requests that wait", lambda now: now.waiting)
        reasons = Gauge(
            "hfx:num_requests_waiting_by_reason",
            "Requests that wait, for room (capacity) or because their promise is lost (deferred)",
            (*self._labels, "reason"),
            registry=self._registry,
        )
        capacity = reasons.labels(**self._labels, reason="capacity")
        capacity.set_function(lambda: _capacity(stats()))
        deferred = reasons.labels(**self._labels, reason="deferred")
        deferred.set_function(lambda: stats().deferred)
        gauge("kv_cache_usage_perc", "Used share of the cache, 0 to 1", _cache_usage)

    def on_step(self, record: StepRecord) -> None:
        """A step has been carried out."""
        self._step.observe(record.duration_s)
        self._step_tokens.observe(record.mix.tokens)
        if record.preempted:
            self._preemptions.inc(record.preempted)
        if record.prefix_query_tokens:
            self._queries.inc(record.prefix_query_tokens)
            self._hits.inc(record.prefix_hit_tokens)

    def on_finish(self, delta: Delta) -> None:
        """A request has ended."""
        assert delta.finish_reason is not None
        times = delta.times
        self._endings[delta.finish_reason].inc()
        self._prompt_length.observe(delta.prompt_tokens)
        self._output_length.observe(delta.output_tokens)
        if times.scheduled_s is None or times.first_token_s is None or times.last_token_s is None:
            return
        decode_s = times.last_token_s - times.first_token_s
        self._total.observe(times.last_token_s - times.arrival_s)
        self._queue.observe(times.scheduled_s - times.arrival_s)
        self._prefill.observe(times.first_token_s - times.scheduled_s)
        self._decode.observe(decode_s)
        self._inference.observe(times.last_token_s - times.scheduled_s)
        if delta.output_tokens > 1:
            self._mean_gap.observe(decode_s / (delta.output_tokens - 1))

    def on_tokens(self, delta: Delta, before: Delta | None) -> None:
        """Tokens have reached the server; `before` is the request's previous delta."""
        tokens = len(delta.token_ids)
        if not tokens:
            return
        self._generation.inc(tokens)
        times = delta.times
        assert times.first_token_s is not None and times.last_token_s is not None
        if before is None or before.times.last_token_s is None:
            self._prompt.inc(delta.prompt_tokens)
            self._first.observe(times.first_token_s - times.arrival_s)
            earlier_s, tokens = times.first_token_s, tokens - 1
        else:
            earlier_s = before.times.last_token_s
        for _ in range(tokens):  # several at once only where the reader fell behind
            self._gap.observe((times.last_token_s - earlier_s) / tokens)

    def on_request(self, n: int, max_tokens: int) -> None:
        """A request has been accepted."""
        self._n.observe(n)
        self._max_tokens.observe(max_tokens)


def _capacity(now: EngineStats) -> float:
    return max(0, now.waiting - now.deferred)


def _cache_usage(now: EngineStats) -> float:
    return 1 - now.free_blocks / now.total_blocks if now.total_blocks else 0.0
