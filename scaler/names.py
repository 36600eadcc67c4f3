"""Which scalers there are, by name."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import ceil

from .fixed import Static
from .hpa import Hpa, QueueLength
from .policy import Scaler
from .velocity import TokenVelocity
from .violation import ViolationReactive

REACTIVE: dict[str, Callable[[], Scaler]] = {
    "hpa": Hpa,
    "queue_length": QueueLength,
    "violation": ViolationReactive,
    "token_velocity": TokenVelocity,
}
SCALERS = ("static_peak", "static_mean", *REACTIVE)


def build_scaler(name: str, needed: Sequence[float] = ()) -> Scaler:
    """The scaler of that name; `static:N` wants N replicas.

    `needed` says for each slot of the traffic how many replicas its work takes: what a person knew
    who sized a fixed fleet for the peak, or for the mean.

    Raises:
        ValueError: none has that name, or it needs `needed` and there is none.
    """
    kind, _, number = name.partition(":")
    if kind == "static" and number.isdecimal():
        return Static(int(number))
    if name in ("static_peak", "static_mean"):
        if not needed:
            raise ValueError(f"{name} has no traffic to be sized for: give static:N instead")
        most = max(needed) if name == "static_peak" else sum(needed) / len(needed)
        return Static(max(1, ceil(most)))
    if name not in REACTIVE:
        raise ValueError(f"scaler is {name!r}: it must be static:N or one of {', '.join(SCALERS)}")
    return REACTIVE[name]()
