"""Finds the capacity: the rate at which FCFS with its best chunk still keeps the goal.

A search with one chunk, then each other chunk tries to keep the goal at a higher rate. Arrivals are
those of seeds that no policy is compared on.
"""

from typing import Any

from hfx.bench.attainment import Share
from hfx.bench.sweep import highest_rate

from .slo_bench import Bench
from .slo_servers import CHUNKS, Policy

GOAL = 0.9
FIRST_CHUNK = 512
FIRST_RATE = 2.0
SEARCH_SECONDS, SEARCH_TOLERANCE, SEARCH_RUNS = 40.0, 0.1, 2
CLIMB = 1.1  # a chunk takes the lead when it keeps the goal at so much more than the leader
TUNING_SEED = 1000


def known(bench: Bench) -> dict[str, Any]:
    found = bench.results.find("capacity")
    if found is None:
        raise SystemExit("the capacity is not known yet: run with --parts capacity first")
    return found


async def find(bench: Bench) -> None:
    """The best chunk of FCFS and the highest rate at which it keeps the goal."""
    if bench.results.find("capacity"):
        return
    best = await _highest(bench, FIRST_CHUNK)
    chunk = FIRST_CHUNK
    for other in CHUNKS:
        while other != FIRST_CHUNK and await _keeps(bench, other, round(best * CLIMB, 4)):
            best, chunk = round(best * CLIMB, 4), other
    bench.results.add("capacity", {"rate": best, "chunk": chunk, "goal": GOAL})


async def _highest(bench: Bench, chunk: int) -> float:
    async def measure(rate: float, run: int) -> tuple[Share, bool]:
        return await _tried(bench, chunk, round(rate, 4), TUNING_SEED + run)

    found = await highest_rate(
        measure, goal=GOAL, start=FIRST_RATE, tolerance=SEARCH_TOLERANCE, runs=SEARCH_RUNS
    )
    if not found.passed:
        raise RuntimeError(f"FCFS with a chunk of {chunk} keeps {GOAL:.0%} at no rate")
    return round(found.passed, 4)


async def _keeps(bench: Bench, chunk: int, rate: float) -> bool:
    kept, is_cut = await _tried(bench, chunk, rate, TUNING_SEED)
    low, high = kept.interval
    if not is_cut and low <= GOAL <= high:
        more, is_cut = await _tried(bench, chunk, rate, TUNING_SEED + 1)
        kept = Share(kept.hits + more.hits, kept.total + more.total)
    return not is_cut and kept.value >= GOAL


async def _tried(bench: Bench, chunk: int, rate: float, seed: int) -> tuple[Share, bool]:
    """A run of the search, or what an earlier call kept of it."""
    row = bench.results.find("search", chunk=chunk, rate=rate, seed=seed)
    if row is None:
        policy = Policy("fcfs", chunk)
        found = await bench.row(policy, rate, seed, SEARCH_SECONDS, GOAL)
        row = bench.results.add("search", found)
    return Share(round(row["slo_attainment"] * row["requests"]), row["requests"]), row["cut"]
