"""Mixes of tiers: each with a share of the requests, lengths of its own, targets, body fields.

A mix is YAML or JSON, in a file or on the command line: a list of objects with the keys of `KEYS`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from hfx.traces import Row

from .attainment import Targets
from .workload import RandomLengths


@dataclass(frozen=True, slots=True, kw_only=True)
class Tier:
    """One kind of request. Lengths that are not given come from the run's own dataset.

    `body` is merged into each request; `send_slo` adds the targets as the field `slo`, which
    servers other than hfx may not know.

    Raises:
        ValueError: share or a target is not above 0, or only one of the lengths is given.
    """

    name: str
    share: float = 1.0
    input_len: int | None = None
    output_len: int | None = None
    range_ratio: float = 0.0
    ttft_ms: float | None = None
    tpot_ms: float | None = None
    e2el_ms: float | None = None
    send_slo: bool = False
    body: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("share", "ttft_ms", "tpot_ms", "e2el_ms"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise ValueError(f"{name} is {value}: it must be above 0")
        if (self.input_len is None) != (self.output_len is None):
            raise ValueError("give both input_len and output_len, or neither")

    @property
    def targets(self) -> Targets:
        limits = {"ttft": self.ttft_ms, "tpot": self.tpot_ms, "e2el": self.e2el_ms}
        return Targets.of_ms({name: ms for name, ms in limits.items() if ms is not None})

    @property
    def request_body(self) -> dict[str, Any]:
        """What is added to the body of each of its requests."""
        slo = self.targets.slo
        return dict(self.body) | ({"slo": slo} if self.send_slo and slo else {})

    def draw(self, rng: np.random.Generator) -> Row | None:
        """Lengths of one request, or None where the run's dataset gives them."""
        if self.input_len is None or self.output_len is None:
            return None
        lengths = RandomLengths(
            input_len=self.input_len, output_len=self.output_len, range_ratio=self.range_ratio
        )
        (inputs,) = lengths.draw(rng, self.input_len, 1)
        (outputs,) = lengths.draw(rng, self.output_len, 1)
        return Row(None, inputs, outputs)


KEYS = tuple(entry.name for entry in fields(Tier))
_TYPES: dict[str, tuple[type, ...]] = {
    "name": (str,),
    "input_len": (int,),
    "output_len": (int,),
    "send_slo": (bool,),
    "body": (dict,),
}


def read_tiers(text: str) -> tuple[Tier, ...]:
    """The mix of a file, or of YAML itself where no file has that name.

    Raises:
        ValueError: it is no such list; the message names the tier and the key.
    """
    is_path = not text.lstrip().startswith(("[", "{", "-")) and "\n" not in text
    where = text if is_path else "--tiers"
    try:
        entries = yaml.safe_load(Path(text).read_text() if is_path else text)
    except yaml.YAMLError as error:
        raise ValueError(f"{where} is no YAML: {' '.join(str(error).split())}") from None
    if isinstance(entries, dict):
        entries = entries.get("tiers")
    if not isinstance(entries, list) or not entries:
        raise ValueError(f"{where}: a mix is a list of tiers, each with keys of {', '.join(KEYS)}")
    tiers = tuple(_tier(f"{where}, tier {i}", entry) for i, entry in enumerate(entries, start=1))
    names = [tier.name for tier in tiers]
    if len(set(names)) < len(names):
        raise ValueError(f"{where}: the names {', '.join(names)} are not all different")
    return tiers


def _tier(where: str, entry: Any) -> Tier:
    if not isinstance(entry, dict) or not isinstance(entry.get("name"), str):
        raise ValueError(f"{where}: it must be an object with a name")
    for key, value in entry.items():
        if key not in KEYS:
            raise ValueError(f"{where}: {key!r} is none of {', '.join(KEYS)}")
        wanted = _TYPES.get(key, (int, float))
        if not isinstance(value, wanted) or (isinstance(value, bool) and bool not in wanted):
            names = " or ".join(kind.__name__ for kind in wanted)
            raise ValueError(f"{where}: {key} is {value!r}: it must be {names}")
    try:
        return Tier(**entry)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from None


def assign(rng: np.random.Generator, tiers: Sequence[Tier], count: int) -> list[Tier]:
    """A tier for each request: numbers as the shares say, to within one, in random order."""
    shares = np.asarray([tier.share for tier in tiers])
    edges = np.round(np.cumsum(shares) / shares.sum() * count).astype(int)
    counts = np.diff(edges, prepend=0)
    chosen = np.repeat(np.arange(len(tiers)), counts)
    return [tiers[i] for i in rng.permutation(chosen)]
