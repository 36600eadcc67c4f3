"""Why an engine can't take or go on with a request, apart from the request's own faults."""


class EngineError(RuntimeError):
    """An engine's refusal or failure; the message says which and what to do."""


class EngineFull(EngineError):
    """The queue is as long as it may get: come back later."""


class EngineDraining(EngineError):
    """The engine is shutting down and takes nothing new."""


class EngineDead(EngineError):
    """The engine has stopped for good."""
