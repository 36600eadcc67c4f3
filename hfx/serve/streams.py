"""Deltas of one HTTP request's generations, merged as they come; closing them aborts the work."""

import asyncio
from collections.abc import AsyncIterator, Sequence

from hfx.engine.delta import Delta
from hfx.engine.service import Service
from hfx.engine.stream import DeltaStream
from hfx.request import Request

Event = tuple[int, Delta]  # which request, by its place, and what is new


class Deltas:
    """Iterates over the news of several requests until each has ended.

    A context: leaving it aborts what has not ended.
    """

    def __init__(self, streams: Sequence[DeltaStream]) -> None:
        self._streams = streams

    @classmethod
    async def of(
        cls, engine: Service, requests: Sequence[Request], *, foresee: bool = False
    ) -> "Deltas":
        """Have an engine compute all of `requests` or, where it refuses one, none.

        Only requests that would rather be refused than served late wait for its answer. To
        `foresee` is to have a prediction of those, too, that were promised nothing.

        Raises:
            EngineError, ValueError: it refuses one of them.
        """
        if any(request.objective.on_miss == "refuse" for request in requests):
            return cls(await engine.admit(requests))
        streams: list[DeltaStream] = []
        try:
            for request in requests:
                streams.append(engine.generate(request, foresee=foresee))
        except BaseException:
            cls(streams).close()
            raise
        return cls(streams)

    def __enter__(self) -> "Deltas":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Abort every request that has not ended."""
        for stream in self._streams:
            stream.close()

    async def __aiter__(self) -> AsyncIterator[Event]:
        if len(self._streams) > 1:
            async for event in _merged(self._streams):
                yield event
            return
        async for delta in self._streams[0]:
            yield 0, delta


async def _merged(streams: Sequence[DeltaStream]) -> AsyncIterator[Event]:
    queue: asyncio.Queue[Event | Exception | None] = asyncio.Queue()

    async def pump(place: int, stream: DeltaStream) -> None:
        try:
            async for delta in stream:
                queue.put_nowait((place, delta))
            queue.put_nowait(None)
        except Exception as error:  # raised again by the reader of the queue
            queue.put_nowait(error)

    pumps = [asyncio.ensure_future(pump(*item)) for item in enumerate(streams)]
    try:
        running = len(pumps)
        while running:
            event = await queue.get()
            if isinstance(event, Exception):
                raise event
            if event is None:
                running -= 1
            else:
                yield event
    finally:
        for task in pumps:
            task.cancel()
