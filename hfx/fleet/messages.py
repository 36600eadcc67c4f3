"""What a parent and its replicas tell each other: structs in msgpack, each with its epoch.

An epoch numbers the processes that have stood for one replica, so that none can speak for its
successor. Times are seconds on the parent's clock, sizes are tokens or blocks.
"""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

from hfx.request import FinishReason, Request

VERSION = 1  # of all messages; both sides must have the same

TokenLogprob = tuple[int, float, int, tuple[tuple[int, float], ...]]  # id, log p, rank, the best
Seconds7 = tuple[float, float, float, float, float, float, float]
Interval = tuple[float, float, bool]  # mean, upper bound, whether extrapolated
Outlook = tuple[Interval, Interval, Interval]  # TTFT, TPOT, end
Count = Annotated[int, msgspec.Meta(ge=0)]


class Message(msgspec.Struct, array_like=True, tag=True):
    """What every message says of its sender, or of whom it is for."""

    epoch: Count


# From a replica to its parent


class Hello(Message):
    """The first message of a process; `token` is what its parent gave it to prove itself."""

    version: int
    replica: int
    token: str
    pid: int
    host: str  # names the machine's present run: clocks of one host are one clock
    sent_s: float  # by the replica's own clock


class Loading(Message):
    """The engine is being built."""

    phase: str
    share: float


class Ready(Message):
    """The engine takes requests. `profile` is its cost model's text, None without prices."""

    max_model_len: int
    total_blocks: int
    block_tokens: int
    vocabulary: int
    prefix_caching: bool
    profile: str | None
    origin: tuple[str, str]  # kind and story of its prices


class Failed(Message):
    """The engine can't be built, or has died; `is_mendable` where a setting is to blame."""

    reason: str
    is_mendable: bool


class Start(msgspec.Struct, array_like=True, gc=False):
    """How a request began on this replica."""

    scheduled_s: float | None
    first_token_s: float | None
    hit_tokens: int


class End(msgspec.Struct, array_like=True):
    """How a request ended, and its `Spent` before (`first`) and after its first token."""

    reason: FinishReason
    stop_reason: str | int | None
    error: str | None
    preemptions: int
    first: Seconds7
    later: Seconds7
    late_s: float | None
    was_relegated: bool
    outlook: Outlook | None


class Event(msgspec.Struct, array_like=True, gc=False):
    """News of one request; `at` is how many output tokens there were before these."""

    number: int
    at: int
    tokens: tuple[int, ...]
    text: str
    last_s: float | None
    start: Start | None = None
    logprobs: tuple[TokenLogprob, ...] | None = None
    end: End | None = None


class StepRow(msgspec.Struct, array_like=True, gc=False):
    """One step, for metrics: `mix` is the fields of a `Mix`, `predicted` mean and upper bound."""

    started_s: float
    duration_s: float
    mix: tuple[int, int, int, int, int, float, int]
    predicted: tuple[float, float] | None
    preempted: int
    query_tokens: int
    hit_tokens: int
    relegated: tuple[str, ...] = ()


class Regime(msgspec.Struct, array_like=True, gc=False):
    """How one regime of steps is predicted now: see `hfx.cost.Accuracy`."""

    steps: int
    mape: float
    coverage: float
    factor: float
    bound: float


class State(msgspec.Struct, array_like=True):
    """A replica between two steps.

    `partial` are (number, cached tokens) of running requests whose prompt is not done, `queued`
    those that hold no blocks; all others run and decode. Totals count since the start.
    """

    now_s: float
    running: int
    free_blocks: int
    idle_blocks: int
    deferred: int
    partial: tuple[tuple[int, int], ...]
    queued: tuple[int, ...]
    steps: int
    preemptions: int
    failed_steps: int
    query_tokens: int
    hit_tokens: int
    decode: Regime | None = None
    mixed: Regime | None = None
    rows: tuple[StepRow, ...] = ()
    compilations: dict[str, int] = {}


class News(Message):
    """Token events of one or more steps, and now and then a snapshot; numbered from 1.

    `heard` is the number of the last order that was obeyed. `returned` answers `Unbind`: the
    number, and whether the request had not begun and is given back.
    """

    number: int
    heard: int
    events: tuple[Event, ...] = ()
    state: State | None = None
    returned: tuple[tuple[int, bool], ...] = ()


class Beat(Message):
    """A sign of life, sent beside the engine's own thread.

    `turn` counts the rounds of its loop; `step_s` is since when a step has been running.
    """

    replica: int
    sent: int  # number of the last news
    heard: int
    turn: int
    step_s: float | None
    resident_bytes: int


class Bye(Message):
    """The replica stops because it was told to."""


# From the parent to a replica


class Welcome(Message):
    """The hello is accepted: build the engine and begin.

    `now_s` is the parent's clock, None on the same host. News needs no answer for `window` numbers.
    """

    now_s: float | None
    lease_s: float
    snapshot_s: float
    window: int


class Unwelcome(Message):
    """The hello is not accepted: end."""

    reason: str


class Add(msgspec.Struct, array_like=True, tag=True):
    """Serve a request. `output` are the tokens that its reader already has, with their times.

    `seed` is what its draws are made from, so that another replica draws the same.
    """

    number: int
    request: Request
    seed: str
    heard_s: float
    foresee: bool = False
    output: tuple[int, ...] = ()
    first_token_s: float | None = None
    last_token_s: float | None = None


class Abort(msgspec.Struct, array_like=True, tag=True, gc=False):
    """End a request; nobody reads it any more."""

    number: int


class Unbind(msgspec.Struct, array_like=True, tag=True, gc=False):
    """Give a request back if it has not begun."""

    number: int


class Pace(msgspec.Struct, array_like=True, tag=True, gc=False):
    """Send snapshots at most this often from now on."""

    snapshot_s: float


class Stop(msgspec.Struct, array_like=True, tag=True, gc=False):
    """Say `Bye` and end. What is still live is dropped."""


Order = Add | Abort | Unbind | Pace | Stop


class Orders(Message):
    """What to do, numbered from 1; `acked` is the number of the last news that has come."""

    number: int
    acked: int
    orders: tuple[Order, ...]


class Ack(Message):
    """News up to this number has come."""

    acked: int


class Pong(Message):
    """The answer to a beat: the parent lives."""


Upward = Hello | Loading | Ready | Failed | News | Beat | Bye
Downward = Welcome | Unwelcome | Orders | Ack | Pong

_encoder = msgspec.msgpack.Encoder()
_upward: msgspec.msgpack.Decoder[Upward] = msgspec.msgpack.Decoder(Upward)
_downward: msgspec.msgpack.Decoder[Downward] = msgspec.msgpack.Decoder(Downward)


class ProtocolError(ValueError):
    """A message that can't be understood; the text says why."""


def encode(message: Message) -> bytes:
    """A message as bytes."""
    return _encoder.encode(message)


def to_parent(data: bytes) -> Upward:
    """What a replica has said.

    Raises:
        ProtocolError: the bytes are none of its messages, or a hello of another version.
    """
    try:
        return _upward.decode(data)
    except (msgspec.DecodeError, ValueError) as error:
        raise ProtocolError(_other_version(data) or f"not a message: {error}") from error


def to_replica(data: bytes) -> Downward:
    """What a parent has said.

    Raises:
        ProtocolError: the bytes are none of its messages.
    """
    try:
        return _downward.decode(data)
    except (msgspec.DecodeError, ValueError) as error:
        raise ProtocolError(f"not a message: {error}") from error


def check_version(hello: Hello) -> None:
    """Refuse another version.

    Raises:
        ProtocolError: the replica speaks another version than this parent.
    """
    if hello.version != VERSION:
        raise ProtocolError(mismatch(hello.version))


def mismatch(version: object) -> str:
    """What to say to a replica of another version."""
    return (
        f"the replica speaks version {version} of the fleet's messages, this parent {VERSION}: "
        "run the same version of hfx on every machine"
    )


def _other_version(data: bytes) -> str | None:
    """Whether bytes are the hello of a version whose hello has other fields.

    The tag, the epoch and the version come first in every version.
    """
    try:
        plain = msgspec.msgpack.decode(data)
    except (msgspec.DecodeError, ValueError):
        return None
    is_hello = isinstance(plain, list) and len(plain) > 2 and plain[0] == "Hello"
    return mismatch(plain[2]) if is_hello and plain[2] != VERSION else None


Channel = Literal["main", "beat"]


def address(replica: int, epoch: int, channel: Channel) -> bytes:
    """The routing id under which a replica's socket is known to its parent."""
    return f"{replica}.{epoch}.{channel}".encode()
