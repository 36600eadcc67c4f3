"""The server's life: listen, load, serve, drain. The exit code is 0 after a clean drain, 2 for
what the user can mend, 1 for our defects and forced ends."""

import asyncio
import contextlib
import errno
import logging
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator

import uvicorn

from hfx.config import HttpConfig, ServeConfig
from hfx.cost import named
from hfx.engine import AsyncEngine
from hfx.engine.service import Service
from hfx.engine.threads import let_idle_threads_sleep

from .app import application
from .convert import Served
from .cost_metrics import CostMetrics
from .device_metrics import CompilationMetrics, HostMetrics, emulation_metric
from .metrics import EngineMetrics, HttpMetrics
from .middleware import KNOWN_PATHS
from .prompts import Prompts
from .settings import Settings
from .site import Model, Site
from .start import Phases, configuration, emulation, greeting, say
from .tier_metrics import TierMetrics
from .tiers import offered

log = logging.getLogger("hfx.serve")

CONNECTIONS_BACKLOG = 2048
KEEP_ALIVE_S = 75  # longer than proxies keep idle connections, or they write into closed ones
# What loading raises for files, settings and machines that don't fit together.
_MENDABLE = (ValueError, OSError, ImportError, MemoryError, RuntimeError)
FLUSH_S = 5.0  # what aborted answers get to write their last event


def serve(settings: Settings) -> int:
    """Serve until told to stop; returns the exit code."""
    http = settings.config.http
    logging.basicConfig(
        level=http.log_level.upper(), format="%(asctime)s %(levelname)s %(name)s: %(message)s"
    )
    logging.getLogger("uvicorn").setLevel(max(logging.WARNING, logging.root.level))
    phases = Phases()
    let_idle_threads_sleep()
    try:
        listener = listen(http)
    except OSError as error:
        print(f"hfx: {_why_not(http, error)}", file=sys.stderr)
        return 2
    say(configuration(settings))
    with asyncio.Runner(loop_factory=_loop_factory()) as runner:
        return runner.run(Life(settings.config, listener, phases).run())


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop]:
    try:
        import uvloop
    except ImportError:  # there is none for Windows
        return asyncio.new_event_loop
    factory: Callable[[], asyncio.AbstractEventLoop] = uvloop.new_event_loop
    return factory


def listen(http: HttpConfig) -> socket.socket:
    """A listening socket, so that /health answers while the model loads.

    Raises:
        OSError: the address can't be had.
    """
    family, kind, protocol, _, address = socket.getaddrinfo(
        http.host, http.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )[0]
    listener = socket.socket(family, kind, protocol)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(CONNECTIONS_BACKLOG)
    except OSError:
        listener.close()
        raise
    return listener


def _why_not(http: HttpConfig, error: OSError) -> str:
    if error.errno == errno.EADDRINUSE:
        return f"port {http.port} of {http.host} is in use: choose another with --port"
    if error.errno == errno.EACCES:
        return f"port {http.port} needs more rights: choose one above 1023 with --port"
    return f"can't listen on {http.host} port {http.port}: {error.strerror}"


class _Uvicorn(uvicorn.Server):
    """uvicorn without its signal handlers: draining comes before its shutdown."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


class Life:
    """One run of the server, from the open socket to the exit code."""

    def __init__(self, config: ServeConfig, listener: socket.socket, phases: Phases) -> None:
        self._config = config
        self._listener = listener
        self._phases = phases
        emulated = config.engine.emulated_profile
        self._site = Site(
            config.http,
            HttpMetrics(KNOWN_PATHS),
            emulated=emulated,
            device=config.engine.device,
        )
        self._signals = 0
        self._stop = asyncio.Event()
        self._uvicorn = _Uvicorn(
            uvicorn.Config(
                application(self._site),
                http="httptools",
                ws="none",
                lifespan="off",
                log_config=None,
                access_log=False,
                server_header=False,
                timeout_keep_alive=KEEP_ALIVE_S,
                timeout_graceful_shutdown=int(FLUSH_S),
            )
        )

    async def run(self) -> int:
        """Serve; returns the exit code."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._on_signal)
        answering = asyncio.ensure_future(self._uvicorn.serve([self._listener]))
        answering.add_done_callback(lambda _: self._stop.set())  # it ends early only by failing
        code = await self._load()
        if code is None:
            await self._stop.wait()
            await self._drain()
            code = 0
        self._uvicorn.should_exit = True
        await answering
        if self._site.model is not None:
            self._site.model.engine.close()
        return code

    def _on_signal(self) -> None:
        self._signals += 1
        self._stop.set()
        if self._site.lifecycle.state == "loading":
            print("hfx: stopped while loading", file=sys.stderr, flush=True)
            os._exit(0)  # a load can't be interrupted, and nothing is lost with it
        if self._signals > 1:
            print("hfx: second signal: stopping at once", file=sys.stderr, flush=True)
            os._exit(1)

    async def _load(self) -> int | None:
        """Load the model; returns an exit code if that fails."""
        try:
            engine = await self._launch()
        except _MENDABLE as error:
            log.debug("loading failed", exc_info=error)
            reason = " ".join(str(error).split())
            print(f"hfx: can't serve {self._named}: {reason}", file=sys.stderr, flush=True)
            return 2
        except Exception:
            log.exception("loading %s failed", self._named)
            return 1
        self._open(engine)
        return None

    async def _launch(self) -> Service:
        config = self._config
        self._phases.enter("libraries")
        if config.fleet.has_processes:
            from hfx.fleet import Fleet

            return await Fleet.launch(config.fleet, config.engine, progress=self._progress)
        return await in_thread(lambda: AsyncEngine.launch(config.engine, progress=self._progress))

    @property
    def _named(self) -> str:
        return self._config.engine.model.model or "the bundled model"

    def _progress(self, phase: str, fraction: float) -> None:
        self._phases.enter(phase)
        self._site.lifecycle.phase = f"{phase} {fraction:.0%}" if fraction else phase

    def _open(self, engine: Service) -> None:
        """Take requests from now on."""
        model = _model(self._site, self._config, engine)
        self._site.model = model
        self._phases.enter("ready")
        say(f"cost profile: {engine.cost or 'off'}")
        for warning in filter(None, (each.warning for each in model.reach())):
            say(f"warning: {warning}")
        self._site.metrics.started(self._phases.seconds | {"total": self._phases.total_s})
        self._site.lifecycle.state = "ready"
        host, port = self._listener.getsockname()[:2]
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
        url = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
        say(greeting(url, model.served.names[0], self._phases))
        if self._site.emulated is not None:
            say(emulation(self._site.emulated))

    async def _drain(self) -> None:
        """Refuse new requests, let those under way end, abort what outlasts the timeout."""
        lifecycle, timeout_s = self._site.lifecycle, self._config.http.shutdown_timeout_s
        lifecycle.state = "draining"
        say(
            f"draining: {lifecycle.active} requests under way get up to {timeout_s:g} s; "
            "a second signal stops at once"
        )
        assert self._site.model is not None
        await self._site.model.engine.drain(timeout_s)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(lifecycle.idle.wait(), FLUSH_S)
        say("stopped")


def _model(site: Site, config: ServeConfig, engine: Service) -> Model:
    loaded = engine.model
    names = config.engine.model.served_model_name or (loaded.name,)
    served = Served(names, engine.max_model_len, loaded.vocabulary, loaded.generation)
    stats = engine.stats()
    engine_metrics = EngineMetrics(
        site.metrics.registry,
        model_name=names[0],
        stats=engine.stats,
        cache={
            "block_size": str(stats.block_tokens),
            "num_gpu_blocks": str(stats.total_blocks),
            "enable_prefix_caching": str(config.engine.cache.enable_prefix_caching),
        },
    )
    engine.add_observer(engine_metrics)
    CompilationMetrics(site.metrics.registry, model_name=names[0], counts=engine.compilations)
    if config.fleet.has_processes:
        _show_replicas(site, engine, names[0])
    if site.emulated is not None:
        emulation_metric(site.metrics.registry, model_name=names[0], profile=site.emulated)
    if site.emulated is not None and not config.fleet.has_processes:
        engine.add_observer(  # steps of several replicas don't follow one another
            HostMetrics(site.metrics.registry, model_name=names[0], cost=named(site.emulated))
        )
    if engine.cost is not None:
        engine.add_observer(
            CostMetrics(site.metrics.registry, model_name=names[0], cost=engine.cost)
        )
    tiers = offered(config.tiers)
    tier_metrics = TierMetrics(site.metrics.registry, model_name=names[0], tiers=tiers)
    engine.add_observer(tier_metrics)
    prompts = Prompts(loaded.tokenizer, loaded.chat, served)
    return Model(
        engine,
        served,
        loaded.tokenizer,
        prompts,
        engine_metrics,
        tier_metrics,
        str(loaded.source),
        int(time.time()),
        tiers,
        config.http.per_request_metrics,
        site.emulated,
    )


def _show_replicas(site: Site, engine: Service, model_name: str) -> None:
    from hfx.fleet import Fleet

    from .fleet_metrics import FleetMetrics

    assert isinstance(engine, Fleet)
    site.replicas, site.fleet = engine.phases, engine
    FleetMetrics(site.metrics.registry, model_name=model_name, fleet=engine)


async def in_thread(work: Callable[[], AsyncEngine]) -> AsyncEngine:
    """Run `work` in a daemon thread, which can't hold up the end of the process."""
    loop = asyncio.get_running_loop()
    done: asyncio.Future[AsyncEngine] = loop.create_future()

    def run() -> None:
        try:
            result = work()
        except BaseException as error:
            loop.call_soon_threadsafe(done.set_exception, error)
        else:
            loop.call_soon_threadsafe(done.set_result, result)

    threading.Thread(target=run, name="hfx-load", daemon=True).start()
    return await done
