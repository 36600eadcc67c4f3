"""What a step policy sees and what it answers: a snapshot of one replica in, a `Plan` out.

Pure Python: a policy reads no clock, draws no random number and touches no tensor, so the same
snapshots give the same plans in the server, in a test and in the simulator. Times are seconds,
sizes are tokens, the cache is counted in blocks of `block_tokens` tokens.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from hfx.request import FinishReason, Plan, Request


@dataclass(slots=True, eq=False)
class Live:
    """A request as a policy sees it: running (it holds blocks) or waiting (it holds none).

    `cached_tokens` of its tokens have keys and values in the cache; for a waiting request it is
    what the prefix cache would give it. `known_tokens` is prompt plus output so far; the gap
    between the two is what there is to compute. `held_blocks` are blocks it holds, and for a
    waiting request the shared blocks that its prefix hit would give it, of which `idle_hit_blocks`
    count as free now and stop being free when it starts. `shared_blocks` of a running request's
    blocks are held by others too, so that preempting it does not free them.

    Its owner changes it between steps, and shows the same object in each snapshot, so that hundreds
    need not be made anew for every step. What the cache says of it - a waiting request's prefix
    hit, a running one's `shared_blocks` - is as of the last `Snapshot.refresh`.
    """

    request: Request
    cached_tokens: int
    known_tokens: int
    output_tokens: int
    held_blocks: int
    shared_blocks: int = 0
    idle_hit_blocks: int = 0
    preemptions: int = 0
    arrival_s: float = 0.0
    first_token_s: float | None = None
    last_token_s: float | None = None

    @property
    def wanted_tokens(self) -> int:
        """Tokens whose keys and values are still to be computed; at least 1."""
        return self.known_tokens - self.cached_tokens

    @property
    def is_decoding(self) -> bool:
        """Whether its next step yields an output token from a single query token."""
        return self.output_tokens > 0 and self.wanted_tokens == 1


@dataclass(frozen=True, slots=True)
class Blocks:
    """The key-value pool: `free` counts blocks that hold nothing or an evictable prefix."""

    total: int
    free: int
    block_tokens: int

    def to_hold(self, tokens: int) -> int:
        """Blocks that `tokens` tokens of one sequence occupy."""
        return -(-tokens // self.block_tokens)


def as_it_is(live: Live) -> None:
    """For a request of which the cache has nothing new to say."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """One replica before a step: running and waiting requests, each in arrival order.

    `refresh` brings up to date what the cache says of one of them: a queue may be long, and a
    policy looks at its front only.
    """

    now_s: float
    running: Sequence[Live]
    waiting: Sequence[Live]
    blocks: Blocks
    refresh: Callable[[Live], None] = as_it_is


class StepPolicy(Protocol):
    """Decides what the next step computes.

    A plan must fit: the blocks that it makes requests hold, less those of requests it preempts, may
    not exceed `snapshot.blocks.free`; each entry lies within 1 and the request's `wanted_tokens`.
    """

    def plan(self, snapshot: Snapshot) -> Plan:
        """The next step's plan; empty when nothing can progress."""
        ...

    def ended(self, request: Request, output_tokens: int, reason: FinishReason) -> None:
        """Learn that a request has ended, and how long its output became."""
        ...
