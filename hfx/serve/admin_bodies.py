"""What `/admin` takes and gives. Times are seconds, targets of tiers milliseconds."""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from .protocol import Body
from .replies import TierCard

MOST_REPLICAS = 1000  # a slip of the finger should not start more processes


class ResizeRequest(Body):
    """`POST /admin/resize`."""

    model_config = ConfigDict(extra="forbid")

    replicas: int = Field(ge=1, le=MOST_REPLICAS, description="How many there shall be.")


class TiersRequest(Body):
    """`PUT /admin/tiers`."""

    model_config = ConfigDict(extra="forbid")

    tiers: dict[str, Any] = Field(
        description="All tiers beside the built-in ones, or instead of one of the same name: "
        "each name with `ttft_ms`, `tpot_ms`, `deadline_ms`, `weight`, `may_refuse`, "
        "`may_relegate`. One that is left out is served no more to new requests."
    )


class ReplicaCard(BaseModel):
    """One replica."""

    id: int
    state: str = Field(
        description="`starting`, `loading`, `ready`, `draining`, `stopping`, `resting` (started "
        "again soon), `open` (left alone for a while, as it has died too often), `stopped`."
    )
    is_drained: bool = Field(description="Whether it was told to take no requests.")
    epoch: int = Field(description="How many processes have stood for it.")
    pid: int | None
    device: str
    is_emulated: bool
    requests: int = Field(description="Requests that it has, by what it was sent.")
    running: int = Field(description="Requests that it computes, by its last snapshot.")
    waiting: int = Field(description="Requests that wait there, by its last snapshot.")
    free_blocks: int | None
    total_blocks: int | None
    restarts: int = Field(description="How often its process was replaced.")
    deaths: dict[str, int] = Field(description="Processes that were lost, by what showed it.")
    last_end: str | None = Field(description="Why the process before this one ended.")
    slowdown: float | None = Field(
        description="How many times as long as its profile says its steps take."
    )
    loading: str | None = Field(description="What it does or waits for before it is ready.")


class ChangeCard(BaseModel):
    """A rolling restart or a change of size."""

    kind: Literal["restart", "resize"]
    state: Literal["running", "done", "failed"]
    replicas: int
    done: list[int] = Field(description="Replicas that were replaced or removed.")
    at: int | None = Field(description="The replica in hand.")
    spare: int | None = Field(
        description="One replica more that serves meanwhile, where there is room for it."
    )
    took_s: float
    error: str | None = Field(description="Why it has failed.")


class ReplicaList(BaseModel):
    """All replicas."""

    object: str = "list"
    data: list[ReplicaCard]
    unbound: int = Field(description="Requests that no replica has.")
    change: ChangeCard | None = Field(description="The change under way, or the last one.")


class TierTable(BaseModel):
    """The tiers as `PUT` takes them, and all that are offered with what this device can keep."""

    object: str = "tiers"
    tiers: dict[str, dict[str, Any]]
    offered: list[TierCard]
