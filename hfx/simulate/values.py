"""Values on the command line, each refused with what it should look like."""

from __future__ import annotations

from argparse import ArgumentTypeError
from math import inf

from .fleet import Failure


def names(text: str) -> list[str]:
    """Names with commas between them."""
    return [name for name in text.split(",") if name]


def rates(text: str) -> tuple[float, ...]:
    """Requests per second, several with commas."""
    return tuple(positive(part) for part in text.split(","))


def positive(text: str) -> float:
    """A finite number above 0."""
    value = _number(text)
    if not 0 < value < inf:
        raise ArgumentTypeError(f"{text!r} is not a number above 0, such as 28 or 0.5")
    return value


def at_least_0(text: str) -> float:
    """A finite number of at least 0."""
    value = _number(text)
    if not 0 <= value < inf:
        raise ArgumentTypeError(f"{text!r} is not a number of at least 0, such as 0 or 1.5")
    return value


def count(text: str) -> int:
    """A whole number of at least 1."""
    if not text.isdecimal() or int(text) < 1:
        raise ArgumentTypeError(f"{text!r} is not a whole number of at least 1")
    return int(text)


def whole(text: str) -> int:
    """A whole number of at least 0."""
    if not text.isdecimal():
        raise ArgumentTypeError(f"{text!r} is not a whole number of at least 0")
    return int(text)


def slow(text: str) -> tuple[int, float]:
    """A replica and its factor, ID:X."""
    id, _, factor = text.partition(":")
    if not id.isdecimal() or not 0 < _number(factor) < inf:
        raise ArgumentTypeError(f"{text!r} is not ID:X, such as 1:1.5 for half as long again")
    return int(id), float(factor)


def failure(text: str) -> Failure:
    """When a replica dies, and how much later it is back: AT:ID[:BACK]."""
    parts = text.split(":")
    at, id, back = parts if len(parts) == 3 else [*parts, "inf", ""][:3]
    if (
        len(parts) not in (2, 3)
        or not id.isdecimal()
        or not (0 <= _number(at) < inf and _number(back) >= 0)
    ):
        raise ArgumentTypeError(
            f"{text!r} is not AT:ID[:BACK], such as 60:0:30 for replica 0 that dies after 60 s and "
            "is back 30 s later"
        )
    return Failure(_number(at), int(id), _number(back))


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return -inf
