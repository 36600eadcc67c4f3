"""Which classes of service the server offers: built in, and configured as YAML or JSON.

Targets are milliseconds (`_ms`) in what people write and seconds (`_s`) in a `Tier`.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hfx.config import Tier

MOST_TIERS = 32  # each is a label of the metrics
AUTO = "auto"  # the server chooses: the default tier
DEFAULT = "default"
TARGETS = ("ttft", "tpot", "deadline")
LEAST_MS, MOST_MS = 0.001, 1e9  # of a target: a microsecond to eleven days

# OpenAI's names. No machine is fast enough for every promise, so those of the built-in tiers are
# ones that people notice: an answer that begins at once and is written faster than they read.
BUILT_IN = (
    Tier(name=DEFAULT),
    Tier(name="flex", deadline_s=600.0, weight=0.25, may_refuse=True),
    Tier(name="priority", ttft_s=2.0, tpot_s=0.2, weight=4.0, may_relegate=False),
)

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
_FIELDS = {
    **{f"{target}_ms": (f"{target}_s", "a number of milliseconds") for target in TARGETS},
    "weight": ("weight", "a number above 0"),
    "may_refuse": ("may_refuse", "true or false"),
    "may_relegate": ("may_relegate", "true or false"),
}


def offered(configured: tuple[Tier, ...]) -> dict[str, Tier]:
    """The tiers by name: built-in ones, unless configured otherwise, then the others."""
    return {tier.name: tier for tier in (*BUILT_IN, *configured)}


def parse(raw: object) -> tuple[Tier, ...]:
    """Tiers from a mapping of names to fields, or from text: the path of a file, or the mapping.

    Raises:
        ValueError: the file can't be read, or a name, field or value is not what it must be.
    """
    document = _document(raw) if isinstance(raw, str) else raw
    if not isinstance(document, Mapping):
        raise ValueError("a mapping such as {chat: {ttft_ms: 500, tpot_ms: 50}}, or a file of one")
    if len(document) > MOST_TIERS:
        raise ValueError(f"at most {MOST_TIERS} tiers")
    return tuple(_tier(str(name), fields) for name, fields in document.items())


def document(tier: Tier) -> dict[str, Any]:
    """A tier's fields as `parse` takes them; what it does not promise is left out."""
    targets = {f"{name}_ms": getattr(tier, f"{name}_s") for name in TARGETS}
    promised = {name: round(s * 1000, 6) for name, s in targets.items() if s is not None}
    flags = {"may_refuse": tier.may_refuse, "may_relegate": tier.may_relegate}
    return {**promised, "weight": tier.weight, **flags}


def _document(text: str) -> Any:
    import yaml

    inline = text.lstrip().startswith("{")
    try:
        return yaml.safe_load(text if inline else Path(text).read_text(encoding="utf-8"))
    except OSError as error:
        raise ValueError(f"a file that can be read ({error.strerror}), or {{...}}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"YAML or JSON ({' '.join(str(error).split())})") from None


def _tier(name: str, fields: object) -> Tier:
    if not _NAME.fullmatch(name) or name == AUTO:
        raise ValueError(
            f"tiers with names of up to 64 letters, digits and _.-, and none {AUTO!r}: not {name!r}"
        )
    if fields is not None and not isinstance(fields, Mapping):
        raise ValueError(f"tiers with fields ({', '.join(_FIELDS)}): {name} has none")
    values = dict(_field(name, str(key), value) for key, value in (fields or {}).items())
    return Tier(name=name, **values)


def _field(tier: str, key: str, value: object) -> tuple[str, Any]:
    key = key.replace("-", "_")
    if key not in _FIELDS:
        raise ValueError(f"tiers with the fields {', '.join(_FIELDS)}: {tier} has {key!r}")
    target, allowed = _FIELDS[key]
    if key.startswith("may_"):
        fits = isinstance(value, bool)
    else:
        least, most = (LEAST_MS, MOST_MS) if key.endswith("_ms") else (0.0, MOST_MS)
        fits = _is_number(value) and least <= value <= most and value > 0  # type: ignore[operator]
    if not fits:
        raise ValueError(f"{allowed} in {tier}.{key}: not {value!r}")
    return target, value / 1000 if key.endswith("_ms") else value  # type: ignore[operator]


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
