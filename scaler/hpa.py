"""Kubernetes' horizontal pod autoscaler, and KEDA's use of it: ratios of a metric to its target.

After `replica_calculator.go` and `horizontal.go` of Kubernetes (v1.31): replicas are multiplied by
the ratio, rounded up, unless it is within a tolerance of 1; pods that are not ready count as idle
when that is a reason to grow less; the fleet shrinks to the largest recommendation of the last 300
seconds, and grows by at most four pods or as many as there are, whichever is more, in a period.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from math import ceil

from .policy import FleetView, Order, ReplicaState, resize

PERIOD_S = 15.0
WINDOW_S = 300.0  # of recommendations: --horizontal-pod-autoscaler-downscale-stabilization
TOLERANCE = 0.1
ROUNDING = 1e-9  # of ratios: Kubernetes counts whole per cents
FASTEST = 4  # pods that may be added in a period, however few there are


def utilisation(replica: ReplicaState) -> float:
    """The share of the time that it computed."""
    return replica.utilisation


class _Stabilised:
    """What both have in common: when they look, and how fast they follow what they see.

    Raises:
        ValueError: the target is not above 0.
    """

    def __init__(self, target: float, window_s: float = WINDOW_S) -> None:
        if not target > 0:
            raise ValueError(f"target is {target}: it must be above 0")
        self.target = target
        self.window_s = window_s
        self.wake_s = 0.0
        self._recommended: deque[tuple[float, int]] = deque()

    def decide(self, view: FleetView) -> Sequence[Order]:
        """See `Scaler.decide`."""
        while self.wake_s <= view.now_s:
            self.wake_s += PERIOD_S
        if not view.size:
            return resize(view, 1 if view.held else 0)
        wanted = self._stable(view.now_s, view.size, view.within(self.wanted(view)))
        most = view.size + max(FASTEST, view.size)
        return resize(view, min(wanted, most))

    def wanted(self, view: FleetView) -> int:
        """The replicas that the metric asks for."""
        raise NotImplementedError

    def _stable(self, now_s: float, size: int, wanted: int) -> int:
        recommended = self._recommended
        if not recommended:
            recommended.append((now_s, size))
        recommended.append((now_s, wanted))
        while recommended[0][0] < now_s - self.window_s:
            recommended.popleft()
        return max(count for _, count in recommended)


class Hpa(_Stabilised):
    """Keeps the mean of a metric over replicas at its target."""

    def __init__(
        self,
        target: float = 0.7,
        window_s: float = WINDOW_S,
        metric: Callable[[ReplicaState], float] = utilisation,
    ) -> None:
        super().__init__(target, window_s)
        self.metric = metric

    def wanted(self, view: FleetView) -> int:
        """See `_Stabilised.wanted`."""
        ready, size = view.of("ready"), view.size
        if not ready:
            return size
        total = sum(map(self.metric, ready))
        ratio = total / len(ready) / self.target
        if ratio <= 1 or len(ready) == size:
            return size if _is_near(ratio) else _up(ratio * len(ready))
        ratio = total / size / self.target  # those that start count as idle
        return size if ratio < 1 or _is_near(ratio) else max(size, _up(ratio * size))


class QueueLength(_Stabilised):
    """So many replicas that each has `target` requests in flight: KEDA with an average value.

    What counts is running and waiting, as KServe's and llm-d's rules for language models have it: a
    queue alone is empty until it is too late. None at all for `cooldown_s`: scaled to zero.
    """

    def __init__(
        self, target: float = 24.0, window_s: float = WINDOW_S, cooldown_s: float = 300.0
    ) -> None:
        super().__init__(target, window_s)
        self.cooldown_s = cooldown_s
        self._active_s = 0.0

    def wanted(self, view: FleetView) -> int:
        """See `_Stabilised.wanted`."""
        flying = view.queued + sum(one.running + one.waiting for one in view.replicas)
        if flying:
            self._active_s = view.now_s
        elif view.now_s - self._active_s >= self.cooldown_s:
            return 0
        ratio = flying / (self.target * view.size)
        return view.size if _is_near(ratio) else max(1, _up(flying / self.target))


def _is_near(ratio: float) -> bool:
    return abs(ratio - 1) <= TOLERANCE


def _up(replicas: float) -> int:
    return ceil(replicas - ROUNDING)
