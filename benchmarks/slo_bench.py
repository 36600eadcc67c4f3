"""One call of the multi-SLO benchmark: its options, its results, the servers that it started."""

import argparse
import time
from dataclasses import dataclass
from typing import Any

import aiohttp

from hfx.bench.client import Target
from hfx.bench.workload import TokenPool

from . import slo_runs
from .slo_results import OutOfTime, Results
from .slo_servers import Policy, Servers
from .slo_workload import WARM_S, Floor, workload

DRAIN_S = 20.0  # what a run takes beside its arrivals, at most


@dataclass(slots=True)
class Bench:
    """One call: its options, its results, the servers that it has started."""

    options: argparse.Namespace
    results: Results
    servers: Servers
    session: aiohttp.ClientSession
    started_s: float
    ready: dict[str, tuple[Target, TokenPool]]

    @property
    def floor(self) -> Floor:
        floor = self.servers.floor
        assert floor is not None
        return floor

    def afford(self, seconds: float) -> None:
        """Raise OutOfTime where so many seconds more are too many."""
        spent_s = time.perf_counter() - self.started_s
        if self.options.budget_s and spent_s + seconds > self.options.budget_s:
            raise OutOfTime

    async def target(self, policy: Policy) -> tuple[Target, TokenPool]:
        """A ready, warm server with this policy."""
        if policy.key not in self.ready:
            server = self.servers.server(policy)
            self.ready[policy.key] = await slo_runs.ready(self.session, server)
        return self.ready[policy.key]

    async def row(
        self, policy: Policy, rate: float, seed: int, seconds: float, goal: float | None = None
    ) -> dict[str, Any]:
        """One run as a row."""
        target, pool = await self.target(policy)
        self.afford(seconds + WARM_S + DRAIN_S)
        load = workload(self.floor, pool, seed=seed, rate=rate, seconds=seconds)
        title = f"{policy.key} {rate:.2f}/s seed {seed}"
        measured = await slo_runs.run(self.session, target, load, policy.name, title, goal)
        row = {"policy": policy.name, "chunk": policy.chunk, "rate": rate, "seed": seed}
        row |= {"seconds": seconds, **measured.row()}
        print(_line(row), flush=True)
        return row


def _line(row: dict[str, Any]) -> str:
    tiers = {name[:5]: f"{tier['slo_attainment']:.0%}" for name, tier in row["tiers"].items()}
    shown = " ".join(f"{name} {share}" for name, share in tiers.items())
    cut = " (given up)" if row["cut"] else ""
    return (
        f"{row['policy']:>9} {row['chunk']:>4} at {row['rate']:.3f}/s seed {row['seed']}: joint "
        f"{row['slo_attainment']:.1%} of {row['requests']}, every token "
        f"{row['slo_attainment_cumulative']:.1%}; {shown}; {row['output_tok_s']:.0f} tok/s, "
        f"missed {row['missed']}{cut}"
    )
