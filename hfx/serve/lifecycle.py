"""What state the server is in, and what that means for requests.

loading -> ready -> draining; dead from any of them. Only `ready` takes inference.
"""

import asyncio
from dataclasses import dataclass, field
from typing import Literal

from .errors import ApiError

State = Literal["loading", "ready", "draining", "dead"]

LOADING_RETRY_S = 2.0  # a start takes seconds
DRAINING_RETRY_S = 5.0  # whoever replaces this server has to start first


@dataclass(slots=True)
class Lifecycle:
    """The server's state, its phase while loading, and the inference requests under way."""

    state: State = "loading"
    phase: str = "start"
    active: int = 0
    idle: asyncio.Event = field(default_factory=asyncio.Event)

    def __post_init__(self) -> None:
        self.idle.set()

    def admit(self) -> None:
        """Refuse unless ready.

        Raises:
            ApiError: 503 while loading or draining (with Retry-After), or once dead.
        """
        if self.state == "loading":
            raise ApiError(
                503,
                f"the model is loading (phase: {self.phase}); try again in a moment",
                code="loading",
                retry_after_s=LOADING_RETRY_S,
            )
        if self.state == "draining":
            raise draining()
        if self.state == "dead":
            raise ApiError(503, "the engine has stopped; the server must be restarted", code="dead")

    def __enter__(self) -> None:
        """Count one inference request in."""
        self.active += 1
        self.idle.clear()

    def __exit__(self, *_: object) -> None:
        self.active -= 1
        if not self.active:
            self.idle.set()


def draining() -> ApiError:
    """The answer to requests that come, or are cut off, during shutdown."""
    return ApiError(
        503,
        "the server is shutting down and takes no new requests",
        code="shutting_down",
        retry_after_s=DRAINING_RETRY_S,
    )
