"""What a dispatcher sees and what it answers: replicas as they stand, and decisions as values.

Pure, like step policies: no clock, no random source but a seed. Times are seconds, sizes tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

from hfx.cost import CostModel
from hfx.cost.link import Link
from hfx.request import FinishReason, Refused, Request

from .policy import Live

Role = Literal["mixed", "prefill", "decode"]


def no_hit(request: Request) -> int:
    """For a replica without a prefix cache."""
    return 0


def as_reported(now_s: float) -> None:
    """For a replica of which nothing is known between two reports."""


@dataclass(slots=True, eq=False)
class ReplicaView:
    """One replica, kept up to date by its owner.

    `running` hold blocks and `waiting` are bound and don't. `prompt_tokens` counts the tokens that
    both have still to compute before they decode. `boundary_s` is when the present step ends, so
    when anything that is bound now can begin; in the past where the replica is idle.
    `advance` brings it up to date for a time between two reports. `hit_tokens` says how much of a
    prompt its prefix cache holds. `role` is what it is used for by preference: it can serve all.
    `incoming` are requests whose keys and values are on their way to it. `link` is what it sends
    and receives these over; None where they can't be moved.
    """

    id: int
    cost: CostModel
    total_blocks: int
    block_tokens: int
    free_blocks: int = 0
    running: Sequence[Live] = field(default_factory=list)
    waiting: Sequence[Live] = field(default_factory=list)
    prompt_tokens: int = 0
    boundary_s: float = 0.0
    is_ready: bool = True
    role: Role = "mixed"
    incoming: Sequence[Live] = field(default_factory=list)
    link: Link | None = None
    hit_tokens: Callable[[Request], int] = no_hit
    advance: Callable[[float], None] = as_reported

    @property
    def requests(self) -> int:
        """Requests that are bound to it."""
        return len(self.running) + len(self.waiting)


@dataclass(frozen=True, slots=True)
class Bind:
    """A request is served by that replica from its next step on."""

    request_id: str
    replica_id: int


@dataclass(frozen=True, slots=True)
class Unbind:
    """A request that waits at that replica comes back into the central queue."""

    request_id: str
    replica_id: int


@dataclass(frozen=True, slots=True)
class Relegate:
    """A request's promise can't be kept: it is served from spare capacity."""

    request_id: str


@dataclass(frozen=True, slots=True)
class Refuse:
    """A request is answered at once: its promise can't be kept, and this could be."""

    request_id: str
    answer: Refused


@dataclass(frozen=True, slots=True)
class Migrate:
    """A request that runs at the source goes on at the target; its keys and values move over links.

    With `keeps_decoding` it decodes at the source meanwhile, and stops for about an iteration at
    the switch, while what was appended follows. Without, it rests from now on: a prompt that is
    done is handed to the replica that decodes it. Nothing is moved where the target has no room, or
    where the request ends or is preempted meanwhile: the views tell where it is.
    """

    request_id: str
    source_id: int
    target_id: int
    keeps_decoding: bool = True


@dataclass(frozen=True, slots=True)
class Flip:
    """A replica changes its role, with work in flight."""

    replica_id: int
    role: Role


Decision = Bind | Unbind | Relegate | Refuse | Migrate | Flip


class Dispatcher(Protocol):
    """Decides which replica serves which request.

    Each method answers with decisions, to be carried out in order. A request that is named in none
    stays in the dispatcher's own queue; `has_queue` says whether there are such.
    """

    @property
    def has_queue(self) -> bool:
        """Whether requests wait to be bound, so that it wants to hear of each step's end."""
        ...

    @property
    def wake_s(self) -> float:
        """The next time at which it wants to be woken; infinite: never."""
        ...

    def joined(self, replica: ReplicaView) -> None:
        """A replica takes work from now on."""
        ...

    def left(self, replica_id: int) -> None:
        """A replica takes none any more; what was bound to it will arrive again."""
        ...

    def arrived(self, live: Live, now_s: float) -> Sequence[Decision]:
        """A request has come, or comes again because its replica is gone."""
        ...

    def stepped(self, replica_id: int, now_s: float) -> Sequence[Decision]:
        """A replica's step has ended and its next one is about to be planned."""
        ...

    def ended(self, request: Request, output_tokens: int, reason: FinishReason) -> None:
        """Learn that a request has ended, and how long its output became."""
        ...

    def woke(self, now_s: float) -> Sequence[Decision]:
        """It is `wake_s`, or a little later; afterwards `wake_s` must lie in the future."""
        ...
