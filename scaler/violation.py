"""Scaling after promises were broken: what performance-based autoscalers do.

As EcoServe and Hyperflexis are described by TokenScale (arXiv 2512.03416): replicas are added once
the share of broken promises exceeds a limit, and taken away when none are broken and the others
could carry the load.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from math import ceil

from .policy import FleetView, Order, resize

PERIOD_S = 5.0
WINDOW_S = 30.0  # over which promises are counted


class ViolationReactive:
    """Grows by a share of the fleet while more than `limit` of the promises are broken.

    It grows again only once the last growth is ready and had a window's time to show; it gives up
    one replica after `calm_s` without a reason to grow, if the others would be busy for less than
    `calm_load` of their time.

    Raises:
        ValueError: a share is not between 0 and 1.
    """

    def __init__(
        self,
        limit: float = 0.05,
        growth: float = 0.25,
        calm_s: float = 60.0,
        calm_load: float = 0.8,
    ) -> None:
        if not (0 < limit < 1 and 0 < growth <= 1 and 0 < calm_load <= 1):
            raise ValueError(
                f"limit {limit}, growth {growth}, calm_load {calm_load}: each must be between 0 "
                "and 1"
            )
        self.limit = limit
        self.growth = growth
        self.calm_s = calm_s
        self.calm_load = calm_load
        self.wake_s = 0.0
        self._seen: deque[tuple[float, int, int]] = deque()  # time, ended, missed
        self._changed_s = 0.0

    def decide(self, view: FleetView) -> Sequence[Order]:
        """See `Scaler.decide`."""
        now_s = view.now_s
        while self.wake_s <= now_s:
            self.wake_s += PERIOD_S
        if not view.size:
            return resize(view, 1 if view.held else 0)
        share = self._missed(view)
        if view.of("starting"):
            self._changed_s = now_s
            return []
        if share > self.limit:
            if now_s < self._changed_s + WINDOW_S:
                return []
            self._changed_s = now_s
            return resize(view, view.size + max(1, ceil(self.growth * view.size)))
        if now_s < self._changed_s + self.calm_s or share or not self._could_do_with_less(view):
            return []
        self._changed_s = now_s
        return resize(view, view.size - 1)

    def _missed(self, view: FleetView) -> float:
        """The share of promises broken in the last window."""
        ended = sum(totals.ended for totals in view.classes.values())
        missed = sum(totals.missed for totals in view.classes.values())
        self._seen.append((view.now_s, ended, missed))
        while self._seen[0][0] < view.now_s - WINDOW_S:
            self._seen.popleft()
        _, first_ended, first_missed = self._seen[0]
        return (missed - first_missed) / max(1, ended - first_ended)

    def _could_do_with_less(self, view: FleetView) -> bool:
        ready = view.of("ready")
        load = sum(one.utilisation for one in ready)
        return len(ready) > 1 and load <= self.calm_load * (len(ready) - 1)
