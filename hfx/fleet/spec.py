"""What a replica's process is told before it says its first word, and how that travels.

Plain data: a launcher passes it on as JSON, to a process here or on another machine.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

import msgspec

from hfx.config import EngineConfig

ENGINE = "hfx.engine.launch:build_engine"  # what builds an engine from its configuration


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplicaSpec:
    """One process of one replica.

    `endpoint` is where its parent listens, `token` what proves it, `key` what its
    messages are encrypted for. `builder` names what makes the
    engine, as `module:function`, from `engine`. `cores` are those that it may run on, empty for
    all; `env` is added to its environment, in which devices are made visible. `resources` is what
    one replica takes, for launchers that place: `gpu`, `npu`, `cpu`.
    """

    replica_id: int
    epoch: int = 0
    endpoint: str = ""
    token: str = field(default="", repr=False)
    key: str = field(default="", repr=False)
    engine: EngineConfig = field(default_factory=EngineConfig)
    builder: str = ENGINE
    cores: tuple[int, ...] = ()
    env: Mapping[str, str] = field(default_factory=dict)
    resources: Mapping[str, float] = field(default_factory=dict)
    log_level: str = "warning"

    @property
    def name(self) -> str:
        """For logs and process lists."""
        return f"replica {self.replica_id}, epoch {self.epoch}"

    def to_json(self) -> bytes:
        """As one line of text."""
        return msgspec.json.encode(self)

    @classmethod
    def from_json(cls, line: bytes) -> ReplicaSpec:
        """The inverse.

        Raises:
            ValueError: the text is none.
        """
        return msgspec.json.decode(line, type=cls)

    def begun(self, epoch: int, token: str, endpoint: str, key: str) -> ReplicaSpec:
        """The same, for one process of it."""
        return replace(self, epoch=epoch, token=token, endpoint=endpoint, key=key)


Specs = Callable[[int], ReplicaSpec]  # how a replica of that id is started
