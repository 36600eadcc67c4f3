"""Reading request bodies: bytes to JSON to a checked model, with errors that say where and why."""

import asyncio
from collections.abc import Callable
from typing import TypeVar

import orjson
from pydantic import ValidationError
from starlette.requests import Request

from .errors import ApiError, from_validation
from .protocol import Body

B = TypeVar("B", bound=Body)
Choose = Callable[[object], type[B]]  # a document's model

LARGE_BYTES = 128 << 10  # parsing more takes milliseconds, which the event loop has not
_JSON_TYPES = ("application/json", "")


async def read(request: Request, model: type[B]) -> B:
    """The request's body as `model`.

    Raises:
        ApiError: 415 for another content type, 400 for anything but a valid body.
    """
    return await read_as(request, lambda _: model)


async def read_as(request: Request, choose: Choose[B]) -> B:
    """The request's body as the model that is chosen for it.

    Raises:
        ApiError: 415 for another content type, 400 for anything but a valid body.
    """
    kind = request.headers.get("content-type", "").split(";")[0].strip().lower()
    if kind not in _JSON_TYPES and not kind.endswith("+json"):
        raise ApiError(
            415, f"content-type is {kind}: send JSON with 'Content-Type: application/json'"
        )
    raw = await request.body()
    if len(raw) < LARGE_BYTES:
        return _parsed(raw, choose)
    return await asyncio.to_thread(_parsed, raw, choose)


def parse(raw: bytes, model: type[B]) -> B:
    """Bytes as `model`; errors as of `read`."""
    return _parsed(raw, lambda _: model)


def _parsed(raw: bytes, choose: Choose[B]) -> B:
    """Bytes as a checked body.

    Raises:
        ApiError: 400 with the position of a JSON error, or the field at fault.
    """
    try:
        document = orjson.loads(raw)
    except orjson.JSONDecodeError as error:
        raise ApiError(400, f"the body is not JSON: {error}", code="invalid_json") from None
    try:
        return choose(document).model_validate(document)
    except ValidationError as error:
        raise from_validation(error) from None
