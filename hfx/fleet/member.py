"""One replica as its parent knows it: its present process, what it was told, when it was heard of.

Seconds on the parent's clock. A member outlives its processes; its epoch numbers them.
"""

from __future__ import annotations

from asyncio import TimerHandle
from collections import deque
from dataclasses import dataclass, field
from typing import Literal, get_args

from .backoff import Backoff
from .launch import Handle
from .messages import (
    Ack,
    Beat,
    Channel,
    News,
    Order,
    Orders,
    Ready,
    State,
    address,
)
from .ordered import Ordered
from .standing import Standing

Phase = Literal[
    "starting",  # a process is started, and has not said hello
    "loading",  # it builds its engine
    "ready",
    "draining",  # it takes nothing new
    "stopping",  # it was told to end
    "resting",  # it has died, and is started again soon
    "open",  # it has died so often that it is left alone for a while
    "stopped",
]
PHASES: tuple[Phase, ...] = get_args(Phase)

WINDOW = 32  # news that a replica may send before the first of them is acknowledged
LOADING_LEASES = 10.0  # building an engine may keep other threads from running for long
HELLO_S = 120.0  # for a process to say its first word


@dataclass(slots=True, eq=False)
class Life:
    """One process of a member, from its start to its end."""

    epoch: int
    token: str
    started_s: float
    handle: Handle | None = None
    heard_s: float = 0.0
    is_known: bool = False  # it has said hello
    ready_s: float | None = None
    ready: Ready | None = None
    beat: Beat | None = None
    state: State | None = None
    standing: Standing | None = None
    failure: str = ""  # its own last words
    is_mendable: bool = False
    is_silent: bool = False  # lost for its silence
    news: Ordered[News] = field(default_factory=Ordered)
    acked: int = 0  # news that it knows to have come
    answered_s: float = 0.0  # when its beats were last answered
    behind_s: float | None = None  # since when its last news, by its beats, has not come
    orders: list[Order] = field(default_factory=list)  # not yet sent
    sent: int = 0
    heard: int = 0  # orders that it has obeyed
    unheard: deque[tuple[int, float]] = field(default_factory=deque)  # those sent since, and when

    def flushed(self, now_s: float) -> Orders | None:
        """All orders that were not sent yet as one message; None: there are none."""
        if not self.orders:
            return None
        self.sent += 1
        self.acked = self.news.last
        self.unheard.append((self.sent, now_s))
        message = Orders(self.epoch, self.sent, self.acked, tuple(self.orders))
        self.orders = []
        return message

    def could_obey(self, order: int) -> bool:
        """Whether it has, or may have without a word: one that fell silent before has not."""
        if order <= self.heard or not self.is_silent:
            return True
        return any(number == order and sent_s < self.heard_s for number, sent_s in self.unheard)

    def ack(self) -> Ack | None:
        """Word of the news that has come, long before its window is full; mostly none."""
        if self.news.last - self.acked < WINDOW // 2:
            return None
        self.acked = self.news.last
        return Ack(self.epoch, self.acked)

    def obeyed(self, heard: int) -> None:
        """Orders up to this number have been obeyed."""
        self.heard = max(self.heard, heard)
        while self.unheard and self.unheard[0][0] <= self.heard:
            self.unheard.popleft()


@dataclass(slots=True, eq=False)
class Member:
    """A replica. `wanted` says whether it should be there, `is_drained` that it takes no work."""

    id: int
    phase: Phase = "starting"
    epoch: int = 0
    life: Life | None = None
    backoff: Backoff = field(default_factory=Backoff)
    retry_s: float = 0.0  # when it is started again
    starts: int = 0
    deaths: dict[str, int] = field(default_factory=dict)  # by cause
    last_death: str = ""
    loading: str = ""
    is_slow: bool = False
    is_drained: bool = False  # kept out of dispatch until somebody says otherwise
    is_wanted: bool = True
    device: str = ""  # as its configuration says
    mover: TimerHandle | None = None  # to move its requests, if it is still drained then

    def forget_mover(self) -> None:
        """Its requests may end where they are."""
        if self.mover is not None:
            self.mover.cancel()
            self.mover = None

    @property
    def standing(self) -> Standing | None:
        """Its requests and the dispatcher's view of it; None while it takes none."""
        return None if self.life is None else self.life.standing

    def to(self, channel: Channel) -> bytes:
        """The address of its present process."""
        return address(self.id, self.epoch, channel)

    def order(self, order: Order) -> int:
        """Have its process told something; the number under which it will be sent."""
        assert self.life is not None
        self.life.orders.append(order)
        return self.life.sent + 1


def overdue(life: Life, now_s: float, lease_s: float, step_s: float) -> str | None:
    """Why a process must be taken for dead; None while all is well.

    A stopped process is silent. One that is cut off in one direction only says so itself: by the
    news that it claims to have sent, and by orders that it claims not to have had.
    """
    silent_s = now_s - life.heard_s
    if not life.is_known:
        return "it has not said hello" if silent_s > HELLO_S else None
    patience_s = lease_s * (1.0 if life.ready_s is not None else LOADING_LEASES)
    if silent_s > patience_s:
        return f"it was silent for {silent_s:.1f} s"
    if life.news.is_broken(now_s, lease_s):
        return f"its news {life.news.last + 1} is lost"
    if life.behind_s is not None and now_s - life.behind_s > lease_s:
        return f"its news since {life.news.last} does not come"
    beat = life.beat
    if beat is None or life.ready_s is None:
        return None
    if beat.step_s is not None and now_s - beat.step_s > step_s:
        return f"a step takes more than {step_s:g} s"
    if life.unheard and now_s - life.unheard[0][1] > lease_s:
        sent_s = life.unheard[0][1]
        is_computing = beat.step_s is not None and beat.step_s < sent_s + lease_s / 2
        if not is_computing and beat.heard < life.unheard[0][0]:
            return f"orders {life.unheard[0][0]} do not arrive"
    return None
