"""A change of a whole fleet, such as a rolling restart: how far it is and why it ended. Seconds."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal


class Busy(RuntimeError):
    """Another change is under way, or the fleet is about to stop; the message says which."""


class NotUp(RuntimeError):
    """A process that was to take requests does not come up; the message says why."""


@dataclass(slots=True, eq=False)
class Change:
    """One change. `replicas` is how many there shall be; `done` are those replaced or removed.

    `at` is the replica in hand. `spare` is one more that serves while others are replaced, where
    there is room for it. `error` says why it `failed`.
    """

    kind: Literal["restart", "resize"]
    replicas: int
    began_s: float
    state: Literal["running", "done", "failed"] = "running"
    ended_s: float | None = None
    done: list[int] = field(default_factory=list)
    at: int | None = None
    spare: int | None = None
    error: str = ""

    def end(self, now_s: float, error: str = "") -> None:
        """It is over; without an error it has been carried out."""
        self.state = "failed" if error else "done"
        self.ended_s, self.error, self.at = now_s, error, None
