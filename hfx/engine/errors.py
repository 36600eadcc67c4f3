"""Why an engine can't take or go on with a request, apart from the request's own faults."""

from hfx.request import Refused


class EngineError(RuntimeError):
    """An engine's refusal or failure; the message says which and what to do."""


class EngineFull(EngineError):
    """The queue is as long as it may get: come back later, in `retry_after_s` if that is known."""

    def __init__(self, message: str, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class Infeasible(EngineError):
    """A promise can't be kept, and its request would rather be refused; nothing was computed."""

    def __init__(self, refused: Refused) -> None:
        super().__init__(refused.reason)
        self.refused = refused


class EngineDraining(EngineError):
    """The engine is shutting down and takes nothing new."""


class EngineNotReady(EngineError):
    """No replica computes now; come back in `retry_after_s`, when one may be there again."""

    def __init__(self, message: str, retry_after_s: float) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class EngineDead(EngineError):
    """The engine has stopped for good."""
