"""What each component is told: one frozen dataclass a component, nested in one root.

Command line, file and environment are read once, in `hfx.serve`; a component gets its own part and
never the root. Names are vLLM's where the meaning is the same.
"""

from dataclasses import dataclass, field
from typing import Literal

DType = Literal["auto", "bfloat16", "float32"]
Policy = Literal[
    "hfx",
    "fcfs",
    "edf",
    "srpf",
    "priority",
    "qoserve_like",
    "scorpio_like",
    "hfx_reconstruction",
]
DEVICES = ("auto", "cpu", "cuda", "npu")
EMULATED = "emulated:"  # and the profile of a device that is only emulated

GIB = 1 << 30


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelConfig:
    """Which model to load and how.

    `model` is a Hugging Face folder, a GGUF file, a Hub id, or None for the bundled model.
    `dtype` "auto" is bfloat16, the fastest form on every device. `max_model_len` None is what the
    model was trained for, cut to what the cache can hold.
    """

    model: str | None = None
    served_model_name: tuple[str, ...] = ()
    dtype: DType = "auto"
    max_model_len: int | None = None
    revision: str | None = None
    download_dir: str | None = None
    chat_template: str | None = None  # a file, or the template itself
    generation_config: Literal["auto", "hfx"] = "auto"  # "hfx": ignore the model's own defaults
    seed: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheConfig:
    """The key-value pool. Bytes win over the fraction, an explicit number of blocks over both.

    `memory_utilization` is a share of what differs by device. On a CPU: of the memory that is free
    once the weights are loaded, for the pool; None is 0.3. On an accelerator: of all its memory,
    for weights, steps and pool together; None is 0.9.
    """

    block_size: int = 64
    memory_utilization: float | None = None
    kv_cache_memory_bytes: int | None = None
    num_blocks_override: int | None = None
    enable_prefix_caching: bool = True

    def __post_init__(self) -> None:
        if self.block_size not in (16, 32, 64, 128):
            raise ValueError(f"block_size is {self.block_size}: it must be 16, 32, 64 or 128")
        share = self.memory_utilization
        if share is not None and not 0.0 < share <= 0.95:
            raise ValueError(f"memory_utilization is {share}: it must be above 0, at most 0.95")
        for name in ("kv_cache_memory_bytes", "num_blocks_override"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} is {value}: it must be at least 1")


@dataclass(frozen=True, slots=True, kw_only=True)
class SchedulerConfig:
    """What decides each step, its limits, and those of the queue before it.

    `scheduling_policy` "hfx" plans by the prices of steps; where there are none, it is "fcfs".
    """

    scheduling_policy: Policy = "hfx"
    max_num_seqs: int = 64
    max_num_batched_tokens: int = 512
    max_num_queued_reqs: int = 1024

    def __post_init__(self) -> None:
        for name in ("max_num_seqs", "max_num_batched_tokens", "max_num_queued_reqs"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}: it must be at least 1")
        if self.max_num_batched_tokens < self.max_num_seqs:
            raise ValueError(
                f"max_num_batched_tokens ({self.max_num_batched_tokens}) is below max_num_seqs "
                f"({self.max_num_seqs}): a step could not advance every running request; raise the "
                "first or lower the second"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class CostConfig:
    """Where the prices of steps come from, which steps then correct while they run.

    `cost_profile` is "auto" (a saved profile of this device and model, or else a quick look of
    less than a second), "calibrate" (measure for `calibration_s` at every start), "off", the name
    of a preset, or the path of a profile. Profiles are saved under `home`.
    """

    cost_profile: str = "auto"
    calibration_s: float = 60.0
    home: str = "~/.cache/hfx"

    def __post_init__(self) -> None:
        if not self.cost_profile:
            raise ValueError('cost_profile is empty: give "auto", "off", a preset or a path')
        if not 0 < self.calibration_s <= 3600:
            raise ValueError(f"calibration_s is {self.calibration_s}: it must be from 0 to 3600")


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineConfig:
    """One replica: model, cache, scheduler, costs, and what it runs on.

    `device` "auto" is an accelerator where there is one that kernels run on, else the CPU.
    "emulated:PROFILE" takes as long as that cost profile says, and computes nothing.
    """

    model: ModelConfig = field(default_factory=ModelConfig)
    cache: CacheConfig = field(default_factory=CacheConfig)
    scheduler: SchedulerConfig = field(default_factory=SchedulerConfig)
    cost: CostConfig = field(default_factory=CostConfig)
    device: str = "auto"
    kernel_backend: str | None = None  # None: the first that can run here
    threads: int | None = None  # of all ranks together; None: every core this process may use
    tensor_parallel_size: int = 1  # processes that compute the model together, a device each

    def __post_init__(self) -> None:
        if self.tensor_parallel_size < 1:
            raise ValueError(
                f"tensor_parallel_size is {self.tensor_parallel_size}: it must be at least 1"
            )
        if self.threads is not None and self.threads < 1:
            raise ValueError(f"threads is {self.threads}: it must be at least 1")
        if self.device not in DEVICES and not self.emulated_profile:
            raise ValueError(
                f"device is {self.device!r}: it must be {', '.join(DEVICES)}, or {EMULATED} and a "
                "cost profile's name or path"
            )

    @property
    def emulated_profile(self) -> str | None:
        """The cost profile whose device is emulated; None for a device that is there."""
        is_emulated = self.device.startswith(EMULATED)
        return self.device.removeprefix(EMULATED) if is_emulated else None


@dataclass(frozen=True, slots=True, kw_only=True)
class FleetConfig:
    """Many replicas of one engine, each a process, and how requests are shared out to them.

    `launcher` "auto" is no process of its own for a single replica, and local ones for more; "ray"
    are actors of the cluster at `ray_address`: "auto", "host:port", or "none" to start one here;
    they connect to `ray_port` of this process, 0 for a free one.
    `replica_devices` are the devices of replicas 0, 1, ..., over and over; empty: all have the
    engine's. `dispatch` names a dispatcher. A replica that is silent for `lease_s`, or whose step
    takes longer than `step_timeout_s`, is taken for dead. Requests wait up to `hold_s` for a
    replica while none is ready.
    """

    replicas: int = 1
    launcher: Literal["auto", "local", "ray"] = "auto"
    ray_address: str = "auto"
    ray_port: int = 0
    replica_devices: tuple[str, ...] = ()
    dispatch: str = "hfx"
    lease_s: float = 3.0
    step_timeout_s: float = 300.0
    hold_s: float = 60.0

    def __post_init__(self) -> None:
        if self.replicas < 1:
            raise ValueError(f"replicas is {self.replicas}: it must be at least 1")
        for name in ("lease_s", "step_timeout_s", "hold_s"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} is {getattr(self, name)}: it must be greater than 0")

    @property
    def has_processes(self) -> bool:
        """Whether replicas are processes; if not, the one engine lives in the server's own."""
        return self.replicas > 1 or self.launcher != "auto"


@dataclass(frozen=True, slots=True, kw_only=True)
class Tier:
    """A class of service: the promise of its requests that bring none, and what overload may do.

    Targets are seconds, None where nothing is promised; `weight` says how much a kept promise
    counts beside others'. A request of a tier that `may_refuse` is refused on arrival when its
    promise can't be kept, and ended at its deadline, unless it asks for something else. A tier
    that `may_relegate` has requests whose promise is lost served from spare capacity.

    Raises:
        ValueError: a target or the weight is not a number above 0.
    """

    name: str
    ttft_s: float | None = None
    tpot_s: float | None = None
    deadline_s: float | None = None
    weight: float = 1.0
    may_refuse: bool = False
    may_relegate: bool = True

    def __post_init__(self) -> None:
        for name in ("ttft_s", "tpot_s", "deadline_s", "weight"):
            value = getattr(self, name)
            if value is not None and not 0 < value < float("inf"):
                raise ValueError(f"tier {self.name}: {name} is {value}: it must be greater than 0")


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpConfig:
    """The HTTP server around an engine."""

    host: str = "127.0.0.1"
    port: int = 8000
    api_key: tuple[str, ...] = ()
    admin_key: tuple[str, ...] = ()
    root_path: str = ""
    allowed_origins: tuple[str, ...] = ()
    shutdown_timeout_s: float = 30.0
    max_request_bytes: int = 8 << 20
    sse_keep_alive_s: float = 15.0
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    log_requests: bool = False
    per_request_metrics: bool = False  # also in answers to requests without a promise

    def __post_init__(self) -> None:
        if set(self.admin_key) & set(self.api_key):
            raise ValueError(
                "an admin_key is an api_key too: whoever sends requests could stop replicas; "
                "give /admin a key of its own"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class ServeConfig:
    """Everything `python -m hfx.serve` is told."""

    engine: EngineConfig = field(default_factory=EngineConfig)
    fleet: FleetConfig = field(default_factory=FleetConfig)
    http: HttpConfig = field(default_factory=HttpConfig)
    tiers: tuple[Tier, ...] = ()  # beside the built-in ones, or instead of one of the same name
