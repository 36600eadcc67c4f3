"""The one table of options: command line, environment, YAML file and --help are all made from it.

A row names a flag and the configuration field it sets; kind, choices and default are the field's
own, so that they cannot drift apart.
"""

import re
import types
from collections.abc import Iterable
from dataclasses import dataclass, fields, is_dataclass
from typing import Any, Literal, Union, get_args, get_origin

from hfx.config import ServeConfig, Tier

from . import tiers

Kind = Literal["text", "integer", "number", "switch", "texts", "bytes", "choice", "tiers"]

_UNITS = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}
_BYTES = re.compile(r"([0-9]+(?:\.[0-9]+)?)\s*([kmgt]?)(?:i?b)?", re.IGNORECASE)
_TRUE = ("true", "1", "yes", "on")
_FALSE = ("false", "0", "no", "off")


@dataclass(frozen=True, slots=True, kw_only=True)
class Option:
    """One setting. `target` is the dotted field of `ServeConfig`, empty where none is set."""

    flag: str
    target: str
    group: str
    help: str
    kind: Kind
    default: Any
    choices: tuple[str, ...] = ()
    aliases: tuple[str, ...] = ()
    minimum: float | None = None
    maximum: float | None = None
    secret: bool = False

    @property
    def env(self) -> str:
        """The environment variable that sets it."""
        return "HFX_" + self.flag.upper().replace("-", "_")

    @property
    def names(self) -> tuple[str, ...]:
        """The flag and its aliases, without dashes in front."""
        return (self.flag, *self.aliases)

    @property
    def allowed(self) -> str:
        """What a value must be, for error messages."""
        words = {
            "text": "a string",
            "integer": "an integer",
            "number": "a number",
            "switch": "true or false",
            "texts": "a string or a list of strings",
            "bytes": "a size in bytes, such as 1073741824 or 1.5GiB",
            "choice": "one of " + ", ".join(self.choices),
            "tiers": "a file of tiers, or {name: {ttft_ms: 500}}",
        }[self.kind]
        if self.minimum is not None and self.maximum is not None:
            return f"{words} from {self.minimum:g} to {self.maximum:g}"
        return words if self.minimum is None else f"{words} of at least {self.minimum:g}"

    def parse(self, raw: object) -> Any:
        """The value of `raw`, a string or what YAML made of one.

        Raises:
            ValueError: it is not what `allowed` says; the message is that.
        """
        value: Any = _PARSERS[self.kind](raw)
        if value is None or (self.choices and value not in self.choices):
            raise ValueError(self.allowed)
        too_low = self.minimum is not None and value < self.minimum
        if too_low or (self.maximum is not None and value > self.maximum):
            raise ValueError(self.allowed)
        return value


def _text(raw: object) -> str | None:
    return raw if isinstance(raw, str) else None


def _integer(raw: object) -> int | None:
    if isinstance(raw, int) and not isinstance(raw, bool):
        return raw
    if isinstance(raw, str) and re.fullmatch(r"[+-]?[0-9]{1,18}", raw.strip()):
        return int(raw)
    return None


def _number(raw: object) -> float | None:
    if isinstance(raw, bool) or not isinstance(raw, int | float | str):
        return None
    try:
        value = float(raw)
    except (ValueError, OverflowError):
        return None
    return value if abs(value) < float("inf") else None


def _switch(raw: object) -> bool | None:
    if isinstance(raw, bool):
        return raw
    word = raw.strip().lower() if isinstance(raw, str) else None
    return True if word in _TRUE else False if word in _FALSE else None


def _texts(raw: object) -> tuple[str, ...] | None:
    if isinstance(raw, str):
        return tuple(part.strip(" []'\"") for part in raw.split(",") if part.strip(" []'\""))
    if isinstance(raw, list) and all(isinstance(part, str) for part in raw):
        return tuple(name for part in raw for name in _texts(part) or ())
    return None


def _bytes(raw: object) -> int | None:
    if isinstance(raw, str):
        match = _BYTES.fullmatch(raw.strip())
        return int(float(match[1]) * _UNITS[match[2].lower()]) if match else None
    return _integer(raw)


_PARSERS = {
    "text": _text,
    "integer": _integer,
    "number": _number,
    "switch": _switch,
    "texts": _texts,
    "bytes": _bytes,
    "choice": _text,
    "tiers": tiers.parse,
}


def _kind(annotation: object) -> tuple[Kind, tuple[str, ...]]:
    """Kind and choices of a configuration field's type."""
    if get_origin(annotation) is Literal:
        return "choice", tuple(get_args(annotation))
    if get_origin(annotation) in (Union, types.UnionType):
        (inner,) = (part for part in get_args(annotation) if part is not type(None))
        return _kind(inner)
    kinds: dict[object, Kind] = {
        str: "text",
        int: "integer",
        float: "number",
        bool: "switch",
        tuple[str, ...]: "texts",
        tuple[Tier, ...]: "tiers",
    }
    return kinds[annotation], ()


def leaves(config: object, prefix: str = "") -> Iterable[tuple[str, object, object]]:
    """Dotted name, type and value of every field below a nested configuration."""
    assert is_dataclass(config)
    for entry in fields(config):
        value = getattr(config, entry.name)
        if is_dataclass(value):
            yield from leaves(value, f"{prefix}{entry.name}.")
        else:
            yield prefix + entry.name, entry.type, value


_LEAVES = {name: (annotation, value) for name, annotation, value in leaves(ServeConfig())}


def _option(group: str, flag: str, target: str, text: str, **extra: Any) -> Option:
    annotation, default = _LEAVES[target]
    kind, choices = _kind(annotation)
    row: dict[str, Any] = {"kind": kind, "choices": choices, "default": default} | extra
    return Option(flag=flag, target=target, group=group, help=text, **row)


def _rows(group: str, prefix: str, *rows: tuple[str, str, str, dict[str, Any]]) -> list[Option]:
    return [_option(group, flag, prefix + name, text, **extra) for flag, name, text, extra in rows]


_CACHE_BYTES = {"kind": "bytes", "minimum": 1}
_COUNT = {"minimum": 1}

OPTIONS: tuple[Option, ...] = (
    *_rows(
        "model",
        "engine.model.",
        (
            "model",
            "model",
            "Hugging Face folder, GGUF file or Hub id; without it, the model that comes with hfx",
            {"aliases": ("model-path",)},
        ),
        ("served-model-name", "served_model_name", "name(s) the API knows the model by", {}),
        ("dtype", "dtype", "type of weights and activations; auto is bfloat16", {}),
        (
            "max-model-len",
            "max_model_len",
            "longest prompt plus output, in tokens; default: what the model was trained for, cut "
            "to what the cache holds",
            _COUNT,
        ),
        ("chat-template", "chat_template", "Jinja file, or the template itself", {}),
        (
            "generation-config",
            "generation_config",
            "auto: the model's own sampling defaults; hfx: neutral ones",
            {},
        ),
        ("revision", "revision", "branch, tag or commit of a Hub id", {}),
        ("download-dir", "download_dir", "where models from the Hub are kept", {}),
        ("seed", "seed", "seed of requests that bring none", {"minimum": 0, "maximum": 2**63 - 1}),
    ),
    *_rows(
        "cache and scheduling",
        "engine.cache.",
        ("block-size", "block_size", "tokens in one block of the cache: 16, 32, 64 or 128", {}),
        (
            "memory-utilization",
            "memory_utilization",
            "on an accelerator the share of all its memory that hfx may use, 0.9 unless given; on "
            "a CPU the share of what is free after loading that the cache may take, 0.3",
            {"aliases": ("gpu-memory-utilization",)},
        ),
        (
            "kv-cache-memory-bytes",
            "kv_cache_memory_bytes",
            "size of the cache, such as 2GiB; wins over --memory-utilization",
            _CACHE_BYTES,
        ),
        (
            "num-blocks-override",
            "num_blocks_override",
            "number of cache blocks; wins over both",
            {"aliases": ("num-gpu-blocks-override",), **_COUNT},
        ),
        (
            "enable-prefix-caching",
            "enable_prefix_caching",
            "share the cache between requests that start alike",
            {},
        ),
    ),
    *_rows(
        "cache and scheduling",
        "engine.scheduler.",
        (
            "scheduling-policy",
            "scheduling_policy",
            "what each step computes: hfx keeps every request's promise, by the cost model; the "
            "others are what it is compared with, fcfs what it is without a cost model",
            {},
        ),
        ("max-num-seqs", "max_num_seqs", "requests that run at the same time", _COUNT),
        (
            "max-num-batched-tokens",
            "max_num_batched_tokens",
            "tokens computed in one step, prompts and outputs together",
            _COUNT,
        ),
        (
            "max-num-queued-reqs",
            "max_num_queued_reqs",
            "requests that may wait; one more is answered with 429",
            _COUNT,
        ),
    ),
    *_rows(
        "cache and scheduling",
        "",
        (
            "tiers",
            "tiers",
            "classes of service that requests choose by service_tier, beside default, flex and "
            "priority: a YAML or JSON file, or the mapping itself: '{chat: {ttft_ms: 500, tpot_ms: "
            "50, deadline_ms: 9000, weight: 2, may_refuse: true, may_relegate: false}}'",
            {},
        ),
    ),
    *_rows(
        "cost model",
        "engine.cost.",
        (
            "cost-profile",
            "cost_profile",
            "prices of steps: auto (a saved profile of this device and model, else a look of less "
            "than a second), calibrate (measure now), off, a preset's name, or a profile's path",
            {},
        ),
        (
            "calibration-budget",
            "calibration_s",
            "seconds that --cost-profile calibrate may measure",
            {"minimum": 0.1, "maximum": 3600},
        ),
        ("home", "home", "folder of what hfx keeps, such as cost profiles", {}),
    ),
    *_rows(
        "device",
        "engine.",
        ("kernel-backend", "kernel_backend", "kernels to use; default: the fastest here", {}),
        ("threads", "threads", "CPU threads; default: every core of this process", _COUNT),
        (
            "tensor-parallel-size",
            "tensor_parallel_size",
            "processes that compute the model together, each on a device of its own, or on its "
            "share of the CPU threads",
            {"aliases": ("tp",), **_COUNT},
        ),
        (
            "device",
            "device",
            "auto (the accelerator that is there and works, else the CPU), cpu, cuda (AMD's GPUs "
            "too; it and npu need their build of torch), npu, or emulated:PROFILE: no model is "
            "computed and no torch needed, steps take as long as that cost profile says, and "
            "answers are made-up words, as many as max_tokens allows (a cache of 500,000 tokens "
            "and contexts of 131,072 unless told otherwise)",
            {},
        ),
    ),
    *_rows(
        "replicas",
        "fleet.",
        (
            "replicas",
            "replicas",
            "engines, each a process with its share of cores or devices; a single one lives in the "
            "server's own process, unless --launcher says otherwise",
            {"aliases": ("data-parallel-size", "dp"), **_COUNT},
        ),
        (
            "launcher",
            "launcher",
            "what starts replicas: local, processes of this machine; ray, on the nodes of a Ray "
            "cluster (pip install 'hfx[ray]')",
            {},
        ),
        (
            "ray-address",
            "ray_address",
            "the cluster of --launcher ray: auto (RAY_ADDRESS, or the one that this machine is a "
            "node of), HOST:PORT, or none to start one on this machine",
            {},
        ),
        (
            "ray-port",
            "ray_port",
            "port of this process that replicas of --launcher ray connect to, from every node; 0 "
            "picks a free one",
            {"minimum": 0, "maximum": 65535},
        ),
        (
            "replica-devices",
            "replica_devices",
            "devices of replicas 0, 1, ..., over and over, where they differ: "
            "emulated:PROFILE,emulated:OTHER",
            {},
        ),
        (
            "dispatch",
            "dispatch",
            "who decides which replica serves a request: hfx by promises and prices, or one that "
            "it is compared with: round_robin, least_loaded, power_of_two, prefix_affinity",
            {},
        ),
        (
            "replica-lease",
            "lease_s",
            "seconds of silence after which a replica is taken for dead; its requests go on "
            "elsewhere",
            {"minimum": 0.1},
        ),
        (
            "replica-step-timeout",
            "step_timeout_s",
            "seconds that one step may take; then its replica is taken for dead",
            {"minimum": 1},
        ),
        (
            "replica-hold",
            "hold_s",
            "seconds that requests wait for a replica while none is ready; then they get a 503",
            {"minimum": 0.1},
        ),
    ),
    *_rows(
        "server",
        "http.",
        ("host", "host", "address to listen on", {}),
        (
            "port",
            "port",
            "port to listen on; 0 picks a free one",
            {"minimum": 0, "maximum": 65535},
        ),
        (
            "api-key",
            "api_key",
            "key(s) that clients must send; repeat the flag for more than one",
            {"secret": True},
        ),
        (
            "admin-key",
            "admin_key",
            "key(s) of /admin: replicas, drain, undrain, resize, rolling restart, tiers; without "
            "one there is no /admin",
            {"secret": True},
        ),
        ("allowed-origins", "allowed_origins", "origins browsers may call from; * for any", {}),
        ("root-path", "root_path", "path under which a proxy serves this server", {}),
        (
            "max-request-bytes",
            "max_request_bytes",
            "largest request body",
            {"kind": "bytes", "minimum": 1},
        ),
        (
            "sse-keep-alive-interval",
            "sse_keep_alive_s",
            "seconds of silence in a stream after which a comment is sent; 0: never",
            {"minimum": 0},
        ),
        (
            "shutdown-timeout",
            "shutdown_timeout_s",
            "seconds that running requests get to finish after SIGTERM",
            {"minimum": 0},
        ),
        ("log-level", "log_level", "least severity that is logged", {}),
        ("enable-log-requests", "log_requests", "log one line per request", {}),
        (
            "enable-per-request-metrics",
            "per_request_metrics",
            "add `metrics` to every answer; without it, to those of requests with a promise",
            {},
        ),
    ),
)

BY_NAME = {name: option for option in OPTIONS for name in option.names}
