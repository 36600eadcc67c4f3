"""Which replicas a simulated fleet has, in which state, and what they have cost so far. Seconds."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from hfx.scaler.policy import State

from .replica import Replica


class Roster:
    """Replicas that start, are ready or drain; each costs from its order to its end.

    `replicas` are those that serve, in the order in which they came: ready and draining ones.
    """

    def __init__(self, replicas: Iterable[Replica]) -> None:
        self.replicas = {replica.id: replica for replica in replicas}
        self.coming: dict[int, Replica] = {}
        self.draining: dict[int, None] = {}
        self.started = 0
        self.steps = self.plans = 0  # of those that are gone, until `close`
        self._gone_s = self._busy_s = 0.0
        self._since_s = dict.fromkeys(self.replicas, 0.0)
        self._state_s = dict(self._since_s)
        self._next_id = max(self.replicas, default=-1) + 1

    @property
    def has_ready(self) -> bool:
        """Whether anybody takes work."""
        return len(self.replicas) > len(self.draining)

    @property
    def ready_ids(self) -> list[int]:
        """Who takes work, by id."""
        return sorted(self.replicas.keys() - self.draining.keys())

    def new_id(self) -> int:
        """An id that no replica ever had."""
        self._next_id += 1
        return self._next_id - 1

    def order(self, replica: Replica, now_s: float) -> None:
        """A replica starts."""
        self.started += 1
        self.coming[replica.id] = replica
        self._since_s[replica.id] = self._state_s[replica.id] = now_s

    def give_up(self, id: int, now_s: float) -> None:
        """A replica that starts isn't wanted any more."""
        del self.coming[id]
        self._end(id, now_s)

    def come(self, replica: Replica, now_s: float) -> None:
        """A replica is ready, whether it was ordered or is simply there again."""
        self.coming.pop(replica.id, None)
        self.replicas[replica.id] = replica
        self._since_s.setdefault(replica.id, now_s)
        self._state_s[replica.id] = now_s

    def drain(self, id: int, now_s: float) -> None:
        """A replica takes no more work."""
        self.draining[id] = None
        self._state_s[id] = now_s

    def remove(self, id: int, now_s: float) -> None:
        """A replica is gone."""
        replica = self.replicas.pop(id)
        self.draining.pop(id, None)
        self._account(replica)
        self._end(id, now_s)

    def state(self, id: int) -> tuple[State, float]:
        """What a replica is doing, and since when."""
        if id in self.coming:
            return "starting", self._state_s[id]
        return ("draining" if id in self.draining else "ready"), self._state_s[id]

    def states(self) -> dict[str, int]:
        """How many replicas are in each state: ready ones by role, where they have one."""
        names = [replica.view.role for id, replica in self.replicas.items() if self._is_ready(id)]
        found = Counter("ready" if role == "mixed" else role for role in names)
        found["draining"] = len(self.draining)
        found["starting"] = len(self.coming)
        return {name: count for name, count in found.items() if count}

    def busy_s(self, now_s: float) -> float:
        """How long replicas have computed until now, all of them together."""
        here_s = sum(replica.busy_until(now_s) for replica in self.replicas.values())
        return self._busy_s + here_s

    def close(self, end_s: float) -> float:
        """Count those that are still there too; what all have cost."""
        for replica in self.replicas.values():
            self._account(replica)
        return self._gone_s + sum(end_s - since_s for since_s in self._since_s.values())

    @property
    def closed_busy_s(self) -> float:
        """How long all have computed, once it is closed."""
        return self._busy_s

    def _is_ready(self, id: int) -> bool:
        return id not in self.draining

    def _end(self, id: int, now_s: float) -> None:
        self._gone_s += now_s - self._since_s.pop(id)
        del self._state_s[id]

    def _account(self, replica: Replica) -> None:
        self._busy_s += replica.busy_s
        self.steps += replica.steps
        self.plans += replica.plans
