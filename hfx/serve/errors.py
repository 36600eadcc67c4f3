"""What the API answers when it can't do what was asked: OpenAI's error body and its status."""

import re
import reprlib
from collections.abc import Mapping
from math import ceil
from typing import Any

import orjson
from pydantic import ValidationError

_TYPES = {
    401: "authentication_error",
    429: "rate_limit_error",
    500: "server_error",
    501: "not_implemented",
    503: "service_unavailable",
    504: "deadline_exceeded",
}

_INSTANCE = re.compile(r"a valid dictionary or instance of \w+")

_SUBJECT = re.compile(r"^(Input|List|String) should")

_short = reprlib.Repr()
_short.maxlevel, _short.maxstring, _short.maxother = 2, 80, 80
_short.maxlist = _short.maxdict = 4


def shown(value: object) -> str:
    """A value as error messages quote it: short however large or deep it is."""
    return _short.repr(value)


class ApiError(Exception):
    """An answer other than 2xx. `param` is the dotted field at fault, `code` names the fault.

    `kind` is OpenAI's `type` where the status does not say it; `details` are more fields of the
    error object. A client is told to come back no earlier than `retry_after_s`.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        kind: str | None = None,
        retry_after_s: float | None = None,
        headers: Mapping[str, str] | None = None,
        details: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.param = param
        self.code = code
        self.kind = kind or _TYPES.get(status, "invalid_request_error")
        self.headers = dict(headers or {})
        self.details = dict(details or {})
        if retry_after_s is not None:
            self.headers["retry-after"] = str(max(1, ceil(retry_after_s)))

    @property
    def document(self) -> dict[str, Any]:
        """OpenAI's error object."""
        error = {
            "message": self.message,
            "type": self.kind,
            "param": self.param,
            "code": self.code,
        }
        return {"error": error | self.details}

    @property
    def body(self) -> bytes:
        """The document as JSON; what UTF-8 can't carry is replaced."""
        try:
            return orjson.dumps(self.document)
        except TypeError:  # a lone surrogate, say from a percent-encoded path
            clean = self.message.encode("utf-8", "replace").decode()
            return orjson.dumps({"error": self.document["error"] | {"message": clean}})


def bad_field(param: str, message: str, code: str | None = None) -> ApiError:
    """A 400 about one field."""
    return ApiError(400, message, param=param, code=code)


def unsupported(param: str, value: object, supported: str) -> ApiError:
    """A 400 about a field or value that OpenAI knows and this server does not serve (yet)."""
    message = f"{param} is {shown(value)}: this server supports only {supported}"
    return bad_field(param, message, "unsupported_value")


def from_validation(error: ValidationError) -> ApiError:
    """A 400 that names the first field at fault, its value and what is allowed."""
    first = error.errors(include_url=False, include_context=False)[0]
    param = ".".join(str(part) for part in first["loc"]) or None
    if first["type"] == "missing":
        return ApiError(400, f"{param} is missing: it is required", param=param, code="missing")
    limit = _INSTANCE.sub("an object", first["msg"]).split(" after validation", 1)[0]
    limit = _SUBJECT.sub("it must", limit)
    value = shown(first["input"])
    return ApiError(400, f"{param or 'the body'} is {value}: {limit}", param=param, code="invalid")


def not_found(model: str, served: tuple[str, ...]) -> ApiError:
    """A 404 for a model that is not served here."""
    message = f"model {shown(model)} is not served here; served: {', '.join(served)}"
    return ApiError(404, message, param="model", code="model_not_found")
