"""Carries news from the engine's thread to one event loop, in at most one pending call.

Where the loop is busy for many steps, their news merge here instead of queueing up.
"""

import asyncio
import threading
from collections.abc import Callable

from .delta import Delta
from .stream import Mailbox

News = dict[Mailbox, Delta]


class Outbox:
    """News not yet taken by `loop`, in which `deliver` is called with it."""

    def __init__(self, loop: asyncio.AbstractEventLoop, deliver: Callable[[News], None]) -> None:
        self.loop = loop
        self._deliver = deliver
        self._lock = threading.Lock()
        self._news: News = {}

    def post(self, news: News) -> None:
        """Hand over a step's news; from the engine's thread."""
        with self._lock:
            is_called = bool(self._news)
            for mailbox, latest in news.items():
                earlier = self._news.get(mailbox)
                self._news[mailbox] = earlier.followed_by(latest) if earlier else latest
        if not is_called:
            self.call(self._take)

    def call(self, function: Callable[[], None]) -> None:
        """Run a function in the loop, after what was posted; from any thread.

        Does nothing where the loop is closed: its readers are gone with it.
        """
        try:
            self.loop.call_soon_threadsafe(function)
        except RuntimeError:
            if not self.loop.is_closed():
                raise

    def _take(self) -> None:
        with self._lock:
            news, self._news = self._news, {}
        self._deliver(news)
