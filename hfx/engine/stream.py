"""The reader's end of one request: deltas as they come, merged where the reader is slow."""

import asyncio
from collections.abc import AsyncIterator
from typing import Protocol

from .delta import Delta


class Mailbox:
    """What has come for one reader and was not yet read; for the event loop's thread only.

    News that comes between two reads is one delta, so memory is bounded by the output itself.
    """

    def __init__(self, request_id: str) -> None:
        self.request_id = request_id
        self.is_shut = False  # nothing more will come
        self._news = asyncio.Event()
        self._pending: Delta | None = None
        self._failure: Exception | None = None

    def put(self, delta: Delta) -> None:
        """Hand over news, unless nobody wants it any more."""
        if self.is_shut:
            return
        self._pending = delta if self._pending is None else self._pending.followed_by(delta)
        self.is_shut = delta.finish_reason is not None
        self._news.set()

    def fail(self, error: Exception) -> None:
        """Let reading end with an error, once what has come is read."""
        if not self.is_shut:
            self._failure, self.is_shut = error, True
            self._news.set()

    @property
    def failure(self) -> Exception | None:
        """See `fail`; None once it was raised."""
        return self._failure

    def shut(self) -> None:
        """Throw unread news away and take no more."""
        self.is_shut, self._pending = True, None
        self._news.set()

    async def take(self) -> Delta:
        """The next news; StopAsyncIteration after the last."""
        if self._pending is None and not self.is_shut:
            await self._news.wait()
        self._news.clear()
        delta, self._pending = self._pending, None
        if delta is not None:
            return delta
        failure, self._failure = self._failure, None
        if failure is not None:
            raise failure
        raise StopAsyncIteration


class Owner(Protocol):
    """Whoever computes for a stream, and is told when its reader goes away."""

    def leave(self, mailbox: Mailbox) -> None:
        """Closed by its reader, in the event loop."""
        ...

    def lose(self, mailbox: Mailbox) -> None:
        """Dropped by its reader, noticed in whichever thread collects garbage."""
        ...


class DeltaStream(AsyncIterator[Delta]):
    """Iterates over the deltas of one request, in the event loop that asked for it.

    Closing or dropping it, or cancelling a task that waits for its next delta, aborts the request.
    """

    def __init__(self, mailbox: Mailbox, owner: Owner) -> None:
        self._mailbox = mailbox
        self._owner = owner

    @property
    def request_id(self) -> str:
        return self._mailbox.request_id

    @property
    def failure(self) -> Exception | None:
        """The error that reading will end with, if it is known already."""
        return self._mailbox.failure

    async def __anext__(self) -> Delta:
        try:
            return await self._mailbox.take()
        except asyncio.CancelledError:
            self.close()
            raise

    def close(self) -> None:
        """Abort the request unless it has ended; reading on ends at once."""
        if not self._mailbox.is_shut:
            self._mailbox.shut()
            self._owner.leave(self._mailbox)

    async def aclose(self) -> None:
        """`close`, for `contextlib.aclosing`."""
        self.close()

    def __del__(self) -> None:
        if not self._mailbox.is_shut:
            self._owner.lose(self._mailbox)
