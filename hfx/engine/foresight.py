"""What an engine foretells of requests: an answer that is owed, or a note if there is time."""

from __future__ import annotations

import logging

from hfx.clock import Clock
from hfx.request import Refused, Request

from .account import is_promise
from .allowance import Allowance
from .forecast import Forecast, Outlook
from .view import View

logger = logging.getLogger(__name__)

SHARE = 0.02  # of the time, for notes
BURST_S = 0.1


class Foresight:
    """Asks a `Forecast`, if there is one; without it nothing is known, and nothing refused."""

    def __init__(self, forecast: Forecast | None, clock: Clock) -> None:
        self._forecast = forecast
        self._clock = clock
        self._allowance = Allowance(SHARE, BURST_S)

    def answer(self, request: Request, view: View) -> Refused | None:
        """Why a promise could not be kept if its request came now; None: it could, or who knows."""
        if self._forecast is None or not is_promise(request.objective):
            return None
        return self._forecast.answer(request, view.snapshot, view.hit_tokens(request))

    def outlook(self, request: Request, view: View) -> Outlook | None:
        """What a request could expect if it came now."""
        if self._forecast is None:
            return None
        return self._forecast.outlook(request, view.snapshot, view.hit_tokens(request))

    def note(self, request: Request, view: View) -> Outlook | None:
        """`outlook`, but one that fails, or for which there is no time, is just not there.

        An outlook looks at the whole load, and steps wait meanwhile: where thousands wait, not
        every request has one.
        """
        if self._forecast is None or not self._allowance.has_time(self._clock.now_s()):
            return None
        try:
            return self.outlook(request, view)
        except Exception:
            logger.exception("request %s could not be predicted", request.id)
            return None
        finally:
            self._allowance.spend(self._clock.now_s())
