"""What an engine tells about itself: a record of every step, and its state at a glance.

Times are seconds on the engine's clock; sizes are tokens or blocks of the key-value pool.
"""

from dataclasses import dataclass
from typing import Protocol

from hfx.cost import Estimate
from hfx.request import Mix

from .delta import Delta


@dataclass(frozen=True, slots=True)
class StepRecord:
    """One step: when, how long, what it computed, and the state that it left behind.

    `prefix_query_tokens` are the tokens of requests that ran for the first time in this step, of
    which `prefix_hit_tokens` came from the prefix cache. `preempted` counts requests, `relegated`
    names the tiers of those that have just lost their promise. `predicted` is what the cost model
    said before the step ran; None where the engine has none.
    """

    started_s: float
    duration_s: float
    mix: Mix
    running: int
    waiting: int
    free_blocks: int
    total_blocks: int
    preempted: int
    prefix_query_tokens: int
    prefix_hit_tokens: int
    predicted: Estimate | None = None
    relegated: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class EngineStats:
    """An engine at a glance; the last five are totals since it started.

    `free_blocks` includes the `idle_blocks`, which keep a prefix that may be hit again. `deferred`
    of the waiting ones wait for spare capacity, because their promise is lost.
    """

    running: int
    waiting: int
    deferred: int
    free_blocks: int
    idle_blocks: int
    total_blocks: int
    block_tokens: int
    steps: int
    preemptions: int
    failed_steps: int
    prefix_query_tokens: int
    prefix_hit_tokens: int


class StepObserver(Protocol):
    """Told about steps and ends in the engine's own thread: return soon, touch no event loop."""

    def on_step(self, record: StepRecord) -> None:
        """A step has been carried out."""
        ...

    def on_finish(self, delta: Delta) -> None:
        """A request has ended; `delta` is its last."""
        ...
