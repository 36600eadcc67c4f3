"""What a request is promised: its headers over its body over its tier, and who said what.

Milliseconds (`_ms`) outside, seconds (`_s`) inside.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from hfx.config import Tier
from hfx.request import Objective

from .errors import ApiError, bad_field, shown
from .protocol import PRIORITIES, GenerationBody
from .tiers import AUTO, DEFAULT, LEAST_MS, MOST_MS, TARGETS

# The first that is there wins: gateways' present names before the older ones.
HEADERS: dict[str, tuple[str, ...]] = {
    "ttft": ("x-llm-d-slo-ttft-ms", "x-slo-ttft-ms"),
    "tpot": ("x-llm-d-slo-tpot-ms", "x-slo-tpot-ms"),
}
TTL = "x-llm-d-inference-ttl"
PRIORITY = "x-vllm-priority"
DESCRIBED = {
    "x-slo-ttft-ms": "Wins over `slo.ttft_ms`.",
    "x-slo-tpot-ms": "Wins over `slo.tpot_ms`.",
    "x-llm-d-slo-ttft-ms": "The same as `x-slo-ttft-ms`, and wins over it.",
    "x-llm-d-slo-tpot-ms": "The same as `x-slo-tpot-ms`, and wins over it.",
    TTL: "Wins over `slo.deadline_ms`, as a duration such as `1m30s`, and makes the deadline hard: "
    "`on_miss` is `refuse`.",
    PRIORITY: "Wins over `priority`: lower goes first.",
}
_FLAT = {"ttft": "ttft_slo_ms", "tpot": "tpot_slo_ms", "deadline": "ttlt_slo_ms"}

_DECIMAL = re.compile(r"[0-9]{1,32}(\.[0-9]{0,32})?|\.[0-9]{1,32}")
_INTEGER = re.compile(r"[+-]?[0-9]{1,18}")
_DURATION = re.compile(rf"\+?(?:(?:{_DECIMAL.pattern})(?:ns|us|µs|μs|ms|s|m|h))+", re.ASCII)
_PART = re.compile(r"([0-9.]+)([a-zµμ]+)")
_UNIT_MS = {
    "ns": 1e-6,
    "us": 1e-3,
    "µs": 1e-3,
    "μs": 1e-3,
    "ms": 1.0,
    "s": 1e3,
    "m": 6e4,
    "h": 3.6e6,
}


@dataclass(frozen=True, slots=True)
class Promise:
    """One HTTP request's promise. `named` maps a target to what the client or tier calls it.

    `is_asked_for` says whether the request named a tier or a target: only then does the answer
    speak of them.
    """

    objective: Objective
    priority: int
    expected_output_tokens: int | None
    named: Mapping[str, str]
    is_asked_for: bool

    @property
    def tier(self) -> str:
        """The tier's name."""
        return self.objective.tier


def promise(body: GenerationBody, headers: Mapping[str, str], tiers: Mapping[str, Tier]) -> Promise:
    """What a request is promised.

    Raises:
        ApiError: 400; a header or field is not what it must be, or there is no such tier.
    """
    tier = _tier(body.service_tier, tiers)
    given = _from_body(body) | _from_headers(headers)
    own = {name: ("service_tier", _ms(getattr(tier, f"{name}_s"))) for name in TARGETS}
    values = {name: pair for name, pair in (own | given).items() if pair[1] is not None}
    objective = Objective(
        **{f"{name}_s": ms / 1000 for name, (_, ms) in values.items() if ms is not None},
        tier=tier.name,
        weight=tier.weight,
        on_miss=_on_miss(body, headers, tier),
        may_relegate=tier.may_relegate,
    )
    return Promise(
        objective,
        _priority(body, headers),
        _expected(body),
        {name: source for name, (source, _) in values.items()},
        is_asked_for=bool(given) or body.service_tier is not None or body.slo is not None,
    )


def _tier(name: str | None, tiers: Mapping[str, Tier]) -> Tier:
    if name is None or name == AUTO:
        return tiers[DEFAULT]
    if name not in tiers:
        known = ", ".join((AUTO, *tiers))
        raise bad_field(
            "service_tier", f"service_tier is {shown(name)}: it must be one of {known}", "invalid"
        )
    return tiers[name]


def _ms(seconds: float | None) -> float | None:
    return None if seconds is None else seconds * 1000


_Given = dict[str, tuple[str, float | None]]  # target -> (who said so, milliseconds)


def _from_body(body: GenerationBody) -> _Given:
    found: _Given = {}
    for target in TARGETS:
        flat, slo = getattr(body, _FLAT[target]), getattr(body.slo, f"{target}_ms", None)
        if slo is not None:
            found[target] = (f"slo.{target}_ms", slo)
        elif flat is not None:
            found[target] = (_FLAT[target], flat)
    return found


def _from_headers(headers: Mapping[str, str]) -> _Given:
    found: _Given = {}
    for target, names in HEADERS.items():
        for name in reversed(names):  # each is checked, and the first stays
            if (text := headers.get(name)) is not None:
                found[target] = (name, _milliseconds(name, text))
    if (text := headers.get(TTL)) is not None:
        found["deadline"] = (TTL, _duration_ms(text))
    return found


def _milliseconds(name: str, text: str) -> float:
    text = text.strip()
    if not _DECIMAL.fullmatch(text):
        raise _bad_header(name, text, "a number of milliseconds, such as 500")
    return _in_range(name, text, float(text))


def _duration_ms(text: str) -> float:
    """Go's form of a duration: decimal numbers, each with a unit."""
    text = _utf8(text.strip())
    if text != "0" and not _DURATION.fullmatch(text):
        raise _bad_header(TTL, text, "a duration greater than 0, such as 500ms or 1m30s")
    parts = _PART.findall(text)
    return _in_range(TTL, text, sum(float(number) * _UNIT_MS[unit] for number, unit in parts))


def _utf8(text: str) -> str:
    """A header that holds µ arrives as Latin-1."""
    try:
        return text.encode("latin-1").decode("utf-8")
    except UnicodeError:
        return text


def _in_range(name: str, text: str, ms: float) -> float:
    if not LEAST_MS <= ms <= MOST_MS:
        raise _bad_header(name, text, f"from {LEAST_MS:g} to {MOST_MS:g} ms")
    return ms


def _bad_header(name: str, text: str, allowed: str) -> ApiError:
    return bad_field(name, f"header {name} is {shown(text)}: it must be {allowed}", "invalid")


def _on_miss(
    body: GenerationBody, headers: Mapping[str, str], tier: Tier
) -> Literal["relegate", "refuse"]:
    """A gateway's time to live is a hard deadline; otherwise as the body says, or the tier may."""
    if TTL in headers:
        return "refuse"
    if body.slo is not None and body.slo.on_miss is not None:
        return body.slo.on_miss
    return "refuse" if tier.may_refuse else "relegate"


def _priority(body: GenerationBody, headers: Mapping[str, str]) -> int:
    text = headers.get(PRIORITY)
    if text is None:
        return body.priority or 0
    text = text.strip()
    value = int(text) if _INTEGER.fullmatch(text) else None
    if value is None or not -PRIORITIES <= value < PRIORITIES:
        allowed = f"an integer from {-PRIORITIES} to {PRIORITIES - 1}"
        raise _bad_header(PRIORITY, text, allowed)
    return value


def _expected(body: GenerationBody) -> int | None:
    """The client's hint, by our name or by Dynamo's, where that is a number."""
    if body.expected_output_tokens is not None:
        return body.expected_output_tokens
    hints = (body.nvext or {}).get("agent_hints")
    osl = hints.get("osl") if isinstance(hints, dict) else None
    return osl if type(osl) is int and osl > 0 else None
