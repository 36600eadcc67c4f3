"""How long the dispatcher takes for a decision, on fleets of 4, 64 and 1,000 replicas under load.

A simulated fleet serves mix M1 at 7 requests a second for each replica, which is about what it can
keep 90 % of with the best baseline; each call of the dispatcher is timed, and what the simulator
does around it is not. Looks at the roles, every 2 s, are given apart: they are nobody's wait.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from contextlib import suppress
from time import perf_counter

import numpy as np

from hfx.bench.record import Record
from hfx.cost.presets import preset
from hfx.request import FinishReason, Request
from hfx.scheduler import Live
from hfx.scheduler.dispatch import SlackDispatcher
from hfx.scheduler.dispatch_view import Decision, ReplicaView
from hfx.simulate import Fleet
from hfx.simulate.setup import FleetSpec, PolicyName
from hfx.simulate.workload import MIXES, generated

from .record import finish, parser, print_rows

RATE = 7.0  # requests per second and replica
SECONDS = {4: 60.0, 64: 12.0, 1000: 1.5}  # of traffic
PROFILE = "rtxpro6000-llama3.1-8b"


class Enough(Exception):
    """The time that was to be measured is over; what is left would only be served to its end."""


class Timed:
    """A dispatcher that is timed, until some moment of the fleet's clock."""

    def __init__(self, inner: SlackDispatcher, until_s: float) -> None:
        self.inner = inner
        self.until_s = until_s
        self.took_s: dict[str, list[float]] = {"arrived": [], "stepped": [], "woke": []}

    @property
    def has_queue(self) -> bool:
        """See `Dispatcher.has_queue`."""
        return self.inner.has_queue

    @property
    def wake_s(self) -> float:
        """See `Dispatcher.wake_s`."""
        return self.inner.wake_s

    def joined(self, replica: ReplicaView) -> None:
        """See `Dispatcher.joined`."""
        self.inner.joined(replica)

    def left(self, replica_id: int) -> None:
        """See `Dispatcher.left`."""
        self.inner.left(replica_id)

    def ended(self, request: Request, output_tokens: int, reason: FinishReason) -> None:
        """See `Dispatcher.ended`."""
        self.inner.ended(request, output_tokens, reason)

    def arrived(self, live: Live, now_s: float) -> Sequence[Decision]:
        """See `Dispatcher.arrived`."""
        return self._time("arrived", lambda: self.inner.arrived(live, now_s))

    def stepped(self, replica_id: int, now_s: float) -> Sequence[Decision]:
        """See `Dispatcher.stepped`; ends the run once the time is over."""
        if now_s > self.until_s:
            raise Enough
        return self._time("stepped", lambda: self.inner.stepped(replica_id, now_s))

    def woke(self, now_s: float) -> Sequence[Decision]:
        """See `Dispatcher.woke`."""
        return self._time("woke", lambda: self.inner.woke(now_s))

    def _time(self, name: str, call: Callable[[], Sequence[Decision]]) -> Sequence[Decision]:
        began_s = perf_counter()
        decisions = call()
        self.took_s[name].append(perf_counter() - began_s)
        return decisions


def main(argv: Sequence[str] | None = None) -> int:
    """The command; returns its exit status."""
    out = parser(__doc__ or "")
    options = out.parse_args(argv)
    record = Record("benchmarks.dispatch")
    rows = []
    for replicas in (4, 64) if options.quick else tuple(SECONDS):
        took_s = _measure(replicas, options)
        decisions_s = np.asarray(took_s["arrived"] + took_s["stepped"])
        rows.append(
            {
                "replicas": replicas,
                "decisions": len(decisions_s),
                **_row("", decisions_s),
                **_row("arrived_", np.asarray(took_s["arrived"])),
                **_row("stepped_", np.asarray(took_s["stepped"])),
                "roles_max_ms": 1e3 * max(took_s["woke"], default=0.0),
            }
        )
        record.summary[f"dispatch_p50_ms_{replicas}"] = float(np.percentile(decisions_s, 50)) * 1e3
        record.summary[f"dispatch_p99_ms_{replicas}"] = float(np.percentile(decisions_s, 99)) * 1e3
    record.rows += rows
    print_rows(rows)
    finish(record, options)
    return 0


def _row(name: str, took_s: np.ndarray) -> dict[str, float]:
    return {f"{name}p{p}_ms": float(np.percentile(took_s, p)) * 1e3 for p in (50, 99)}


def _measure(replicas: int, options: argparse.Namespace) -> dict[str, list[float]]:
    seconds = SECONDS[replicas] / (4 if options.quick else 1)
    jobs = generated(MIXES["M1"], RATE * replicas, seconds, 0)
    policy = PolicyName.parse("hfx")
    spec = FleetSpec(profiles=[preset(PROFILE)], replicas=replicas, policy=policy)
    timed = Timed(SlackDispatcher(), seconds)
    with suppress(Enough):
        Fleet([spec.replica(id) for id in range(replicas)], timed).run(jobs)
    return timed.took_s


if __name__ == "__main__":
    raise SystemExit(main())
