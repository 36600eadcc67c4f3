"""What the parent and the process that owns its Ray actors tell each other: JSON, a line each."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from .spec import ReplicaSpec


class _Line(msgspec.Struct, frozen=True, tag=True):
    """A line; its type travels with it."""


class Begin(_Line, frozen=True, tag=True):
    """Have an actor keep the process of this replica; `key` names it from now on."""

    key: int
    spec: ReplicaSpec


class Kill(_Line, frozen=True, tag=True):
    """End it, whatever state it is in."""

    key: int


class Connected(_Line, frozen=True, tag=True):
    """The first line: this node's address, and what the cluster has of each resource."""

    address: str
    resources: Mapping[str, float]


class Broken(_Line, frozen=True, tag=True):
    """There is no going on; the last line."""

    reason: str


class Waits(_Line, frozen=True, tag=True):
    """A replica can't begin yet."""

    key: int
    why: str


class Placed(_Line, frozen=True, tag=True):
    """Its process runs on that node."""

    key: int
    node: str
    pid: int


class Ended(_Line, frozen=True, tag=True):
    """They have ended, or are lost to Ray: those of a node that has died together."""

    keys: tuple[int, ...]
    why: str


Order = Begin | Kill
Report = Connected | Broken | Waits | Placed | Ended
_ORDERS: msgspec.json.Decoder[Order] = msgspec.json.Decoder(Order)
_REPORTS: msgspec.json.Decoder[Report] = msgspec.json.Decoder(Report)


def encode(line: Order | Report) -> bytes:
    """As one line, with its end."""
    return msgspec.json.encode(line) + b"\n"


def to_order(line: bytes) -> Order:
    """What the parent wants.

    Raises:
        ValueError: the line is no order.
    """
    return _ORDERS.decode(line)


def to_report(line: bytes) -> Report:
    """What has become of it.

    Raises:
        ValueError: the line is no report.
    """
    return _REPORTS.decode(line)
