"""Cost models as JSON that a person can read: saved, loaded, and refused when they don't fit.

Prices are seconds per unit, as the names of the fields say; sizes are tokens or bytes.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any, TypeVar

from .link import Link, Startup
from .regime import Piece, Regime
from .step import Fit, Key, Limits, StepCost

FORMAT = "hfx.cost"
FORMAT_VERSION = 1
AGAIN = "measure again with python -m hfx.calibrate"
T = TypeVar("T")


def save(model: StepCost, path: str | Path) -> None:
    """Write a profile; a file that exists is replaced."""
    Path(path).write_text(dumps(model), encoding="utf-8")


def load(path: str | Path, **expected: str | int) -> StepCost:
    """Read a profile, and check fields of its key against `expected` (device="...", model="...").

    Raises:
        ValueError: the file is not a profile of this version, a field is missing, unknown or
            wrong, or it is a profile of something else. The message names file, field and cure.
        OSError: the file can't be read.
    """
    try:
        model = loads(Path(path).read_text(encoding="utf-8"))
        require(model, **expected)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    return model


def require(model: StepCost, /, **expected: str | int) -> None:
    """Refuse a profile of another device, model, dtype, tensor_parallel or version.

    Raises:
        ValueError: the key differs from what is expected; the message names the field.
    """
    for name, value in expected.items():
        if name not in Key.__slots__:
            raise ValueError(f"a profile's key has no {name!r}, only {', '.join(Key.__slots__)}")
        found = getattr(model.key, name)
        if found != value:
            raise ValueError(
                f"the profile's {name} is {found!r}, but {value!r} runs here: give the matching "
                f"profile, or {AGAIN}"
            )


def dumps(model: StepCost) -> str:
    """A profile as indented JSON."""
    plain = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "key": asdict(model.key),
        "source": model.source,
        "report": {name: asdict(quality) for name, quality in model.report.items()},
        "measured": asdict(model.measured),
        "kv_bytes_per_token": model.kv_bytes_per_token,
        "links": {name: asdict(link) for name, link in model.links.items()},
        "startup": asdict(model.startup) if model.startup else None,
        "decode": asdict(model.decode),
        "mixed": asdict(model.mixed),
    }
    return json.dumps(plain, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def loads(text: str) -> StepCost:
    """The model of a profile's text.

    Raises:
        ValueError: as for `load`.
    """
    try:
        plain = json.loads(text, parse_constant=_no_constant)
    except json.JSONDecodeError as error:
        raise ValueError(f"not JSON ({error}): the profile is damaged, {AGAIN}") from error
    if not isinstance(plain, dict) or plain.pop("format", None) != FORMAT:
        raise ValueError(f"format is not {FORMAT!r}: this is no cost profile")
    version = plain.pop("format_version", None)
    if version != FORMAT_VERSION:
        raise ValueError(f"format_version is {version!r}, this hfx reads {FORMAT_VERSION}: {AGAIN}")
    names = {field.name for field in fields(StepCost) if field.init}
    _same_names(plain, names, "the profile")
    startup = plain["startup"]
    return StepCost(
        key=_record(Key, plain["key"], "key"),
        source=_text(plain["source"], "source"),
        report=_records(Fit, plain["report"], "report"),
        measured=_record(Limits, plain["measured"], "measured"),
        kv_bytes_per_token=int(_number(plain["kv_bytes_per_token"], "kv_bytes_per_token")),
        links=_records(Link, plain["links"], "links"),
        startup=None if startup is None else _startup(startup),
        decode=_regime(plain["decode"], "decode"),
        mixed=_regime(plain["mixed"], "mixed"),
    )


def _startup(plain: Any) -> Startup:
    for name, seconds in _mapping(
        _mapping(plain, "startup").get("phases_s"), "startup phases_s"
    ).items():
        _number(seconds, f"startup phases_s {name}")
    return _record(Startup, plain, "startup")


def _regime(plain: Any, where: str) -> Regime:
    values = dict(_mapping(plain, where))
    for name in ("knots_tokens", "curve_s"):
        values[name] = tuple(_number(v, f"{where} {name}") for v in _list(values, name, where))
    pieces = _list(values, "pieces", where)
    values["pieces"] = tuple(_record(Piece, p, f"{where} pieces {i}") for i, p in enumerate(pieces))
    return _record(Regime, values, where)


def _records(kind: type[T], plain: Any, where: str) -> dict[str, T]:
    return {
        name: _record(kind, value, f"{where} {name}")
        for name, value in _mapping(plain, where).items()
    }


def _record(kind: type[T], plain: Any, where: str) -> T:
    """A dataclass from a JSON object that has exactly its fields, numbers checked."""
    values = _mapping(plain, where)
    known = fields(kind)  # type: ignore[arg-type]
    names = {field.name for field in known}
    _same_names(values, names, where)
    for field in known:
        value, name = values[field.name], f"{where} {field.name}"
        if field.type == "str":
            _text(value, name)
        elif field.type in ("int", "float"):
            _number(value, name)
    try:
        return kind(**values)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from error


def _same_names(plain: Mapping[str, Any], known: set[str], where: str) -> None:
    missing, unknown = sorted(known - set(plain)), sorted(set(plain) - known)
    if missing:
        raise ValueError(f"{where} has no {missing[0]!r}: the profile is damaged, {AGAIN}")
    if unknown:
        raise ValueError(f"{where} has an unknown {unknown[0]!r}: remove it, or {AGAIN}")


def _mapping(plain: Any, where: str) -> Mapping[str, Any]:
    if not isinstance(plain, dict):
        raise ValueError(f"{where} is {plain!r}, not an object: the profile is damaged, {AGAIN}")
    return plain


def _list(values: Mapping[str, Any], name: str, where: str) -> list[Any]:
    value = values.get(name)
    if not isinstance(value, list | tuple):
        raise ValueError(f"{where} {name} is {value!r}, not a list: {AGAIN}")
    return list(value)


def _number(value: Any, where: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError(f"{where} is {value!r}, not a finite number: {AGAIN}")
    return value


def _text(value: Any, where: str) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{where} is {value!r}, not a text: correct it, or {AGAIN}")
    return value


def _no_constant(name: str) -> float:
    raise ValueError(f"{name} is no number of JSON: the profile is damaged, {AGAIN}")
