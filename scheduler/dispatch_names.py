"""Which dispatchers there are, by the name that comes before the + of a policy's name."""

from __future__ import annotations

from collections.abc import Callable

from .dispatch import SlackDispatcher
from .dispatch_arrow import ArrowLike
from .dispatch_fixed import LeastLoaded, PowerOfTwo, PrefixAffinity, RoundRobin
from .dispatch_llumnix import LlumnixLike
from .dispatch_view import Dispatcher

DISPATCHERS: dict[str, Callable[[int], Dispatcher]] = {
    "round_robin": lambda seed: RoundRobin(),
    "least_loaded": lambda seed: LeastLoaded(),
    "power_of_two": PowerOfTwo,
    "prefix_affinity": lambda seed: PrefixAffinity(),
    "llumnix_like": lambda seed: LlumnixLike(),
    "arrow_like": lambda seed: ArrowLike(),
    "hfx": lambda seed: SlackDispatcher(),
}


def build_dispatcher(name: str, seed: int = 0) -> Dispatcher:
    """The dispatcher of that name; `seed` is for those that draw.

    Raises:
        ValueError: none has that name.
    """
    if name not in DISPATCHERS:
        raise ValueError(f"dispatch is {name!r}: it must be one of {', '.join(DISPATCHERS)}")
    return DISPATCHERS[name](seed)
