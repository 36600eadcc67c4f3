"""Server-sent events from bytes that arrive in any pieces, by the WHATWG grammar."""

import re
from dataclasses import dataclass

_LINE_END = re.compile(rb"\r\n|\r|\n")


@dataclass(frozen=True, slots=True)
class Event:
    """One dispatched event; several `data` lines are joined with newlines."""

    data: str
    type: str = "message"


class EventParser:
    """Turns chunks into events. Comments (keep-alives) and fields it doesn't know vanish.

    An event counts once its blank line has arrived: what a cut stream left behind is no event.
    """

    def __init__(self) -> None:
        self._rest = b""
        self._after_cr = False
        self._data: list[str] = []
        self._type = ""

    def feed(self, chunk: bytes) -> list[Event]:
        """The events that this chunk completed."""
        if self._after_cr and chunk:
            chunk = chunk.removeprefix(b"\n")  # the second half of a CRLF that was cut in two
            self._after_cr = False
        *lines, self._rest = _LINE_END.split(self._rest + chunk)
        if lines and not self._rest and chunk.endswith(b"\r"):
            self._after_cr = True
        return [event for line in lines if (event := self._take(line)) is not None]

    def _take(self, line: bytes) -> Event | None:
        if not line:
            return self._dispatch()
        name, _, value = line.decode("utf-8", errors="replace").partition(":")
        value = value.removeprefix(" ")
        if name == "data":
            self._data.append(value)
        elif name == "event":
            self._type = value
        return None

    def _dispatch(self) -> Event | None:
        event = Event("\n".join(self._data), self._type or "message") if self._data else None
        self._data, self._type = [], ""
        return event
