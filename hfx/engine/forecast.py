"""What an engine needs of admission: can a promise be kept, and what could a request expect?"""

from typing import Protocol

from hfx.cost import Estimate
from hfx.request import Refused, Request
from hfx.scheduler import Snapshot


class Outlook(Protocol):
    """What a request could expect: seconds from its arrival, and per token after the first."""

    @property
    def ttft_s(self) -> Estimate: ...
    @property
    def tpot_s(self) -> Estimate: ...
    @property
    def finish_s(self) -> Estimate: ...


class Forecast(Protocol):
    """Answers for a request that would come now, of whose prompt the cache has so many tokens."""

    def answer(
        self, request: Request, snapshot: Snapshot, cached_tokens: int = 0
    ) -> Refused | None:
        """Why its promise can't be kept; None where it can."""
        ...

    def outlook(self, request: Request, snapshot: Snapshot, cached_tokens: int = 0) -> Outlook:
        """What it could expect."""
        ...
