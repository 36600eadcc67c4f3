"""Query parameters of `/admin`: read strictly, so that a slip is told and not ignored."""

import math
from typing import Any

from starlette.requests import Request

from .errors import bad_field, shown

MOST_S = 86400.0
_WORDS = {"true": True, "1": True, "false": False, "0": False}


def query(name: str, text: str) -> dict[str, Any]:
    """How OpenAPI describes one."""
    return {"in": "query", "name": name, "schema": {"type": "string"}, "description": text}


def check_names(request: Request, *known: str) -> None:
    """Check that no parameter is there that nobody reads.

    Raises:
        ApiError: 400, one is.
    """
    for name in request.query_params:
        if name not in known:
            raise bad_field(
                name, f"{name} is no parameter here: {', '.join(known) or 'there are none'}"
            )


def switch(request: Request, name: str) -> bool:
    """True or false; false where it is not given.

    Raises:
        ApiError: 400, it is neither.
    """
    text = request.query_params.get(name, "false")
    if text.lower() not in _WORDS:
        raise bad_field(name, f"{name} is {shown(text)}: it must be true or false", "invalid")
    return _WORDS[text.lower()]


def seconds(request: Request, name: str, *, least: float = 0.0) -> float | None:
    """A time; None where it is not given.

    Raises:
        ApiError: 400, it is none.
    """
    text = request.query_params.get(name)
    if text is None:
        return None
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not least <= value <= MOST_S:
        allowed = f"a number of seconds from {least:g} to {MOST_S:g}"
        raise bad_field(name, f"{name} is {shown(text)}: it must be {allowed}", "invalid")
    return value
