"""Dispatch on arrival by rules that know no promises: what ours is compared with. Tokens.

Round robin, least loaded by outstanding tokens, the better of two, and prefix affinity.
"""

from __future__ import annotations

from bisect import insort
from collections.abc import Sequence
from math import inf
from random import Random

from hfx.request import FinishReason, Request

from .dispatch_view import Bind, Decision, ReplicaView
from .policy import Live

FORGET = 0.02  # weight of the newest end in the mean length of outputs
FIRST_GUESS = 128.0  # tokens of an output before any has ended
OVERLOADED = 1.5  # times the mean load: from there on a prefix is not worth waiting for


class OnArrival:
    """Binds every request the moment it comes."""

    has_queue = False
    wake_s = inf

    def __init__(self) -> None:
        self.replicas: list[ReplicaView] = []
        self.output_tokens = FIRST_GUESS

    def joined(self, replica: ReplicaView) -> None:
        """See `Dispatcher.joined`."""
        insort(self.replicas, replica, key=lambda view: view.id)

    def left(self, replica_id: int) -> None:
        """See `Dispatcher.left`."""
        self.replicas = [view for view in self.replicas if view.id != replica_id]

    def arrived(self, live: Live, now_s: float) -> Sequence[Decision]:
        """See `Dispatcher.arrived`.

        Raises:
            ValueError: there is no replica.
        """
        if not self.replicas:
            raise ValueError("no replica is ready: hold requests back until one is")
        return (Bind(live.request.id, self.choose(live).id),)

    def stepped(self, replica_id: int, now_s: float) -> Sequence[Decision]:
        """What is bound stays bound."""
        return ()

    def woke(self, now_s: float) -> Sequence[Decision]:
        """It never asks to be woken."""
        return ()

    def ended(self, request: Request, output_tokens: int, reason: FinishReason) -> None:
        """Learn the mean length of outputs."""
        self.output_tokens += FORGET * (output_tokens - self.output_tokens)

    def choose(self, live: Live) -> ReplicaView:
        """The replica for a request."""
        raise NotImplementedError

    def load(self, view: ReplicaView) -> float:
        """Outstanding tokens: prompts still to compute, and outputs by their mean length."""
        return view.prompt_tokens + view.requests * self.output_tokens


class RoundRobin(OnArrival):
    """One after the other."""

    def __init__(self) -> None:
        super().__init__()
        self._next = 0

    def choose(self, live: Live) -> ReplicaView:
        """See `OnArrival.choose`."""
        view = self.replicas[self._next % len(self.replicas)]
        self._next += 1
        return view


class LeastLoaded(OnArrival):
    """The replica with the fewest outstanding tokens."""

    def choose(self, live: Live) -> ReplicaView:
        """See `OnArrival.choose`."""
        return min(self.replicas, key=self.load)


class PowerOfTwo(OnArrival):
    """The less loaded of two replicas drawn at random (Mitzenmacher 2001)."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        self._random = Random(seed)

    def choose(self, live: Live) -> ReplicaView:
        """See `OnArrival.choose`."""
        if len(self.replicas) < 2:
            return self.replicas[0]
        return min(self._random.sample(self.replicas, 2), key=self.load)


class PrefixAffinity(OnArrival):
    """The replica that holds most of the prompt, unless it is overloaded; else the least loaded.

    As SGLang's cache-aware router: the longest match where loads are balanced, load elsewhere.
    """

    def choose(self, live: Live) -> ReplicaView:
        """See `OnArrival.choose`."""
        mean = sum(map(self.load, self.replicas)) / len(self.replicas)
        most = OVERLOADED * mean + live.request.prompt_tokens
        calm = [view for view in self.replicas if self.load(view) <= most]

        def gain(view: ReplicaView) -> tuple[int, float]:
            return -view.hit_tokens(live.request), self.load(view)

        return min(calm, key=gain)
