"""`python -m hfx.simulate`: runs every policy at every rate and seed, and says what was kept."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from tqdm import tqdm

from hfx.cost import named
from hfx.request import Objective

from .job import Job
from .options import parser
from .plots import draw
from .setup import FleetSpec, PolicyName
from .summary import Summary, mean, summarize
from .workload import MIXES, generated, hinted, replayed, scaled

DEFAULT_PROFILE = "rtxpro6000-llama3.1-8b"
DEFAULT_SECONDS = 300.0


@dataclass(frozen=True, slots=True)
class Run:
    """One policy at one rate with one seed; `cpu_s` is what simulating it took."""

    policy: str
    rate: float | None
    seed: int
    summary: Summary
    cpu_s: float


def main(argv: Sequence[str] | None = None) -> int:
    """The command; returns its exit status."""
    out = parser()
    options = out.parse_args(argv)
    try:
        runs = list(_runs(options))
    except (ValueError, OSError) as error:
        out.error(str(error))
    _print(options, runs)
    if options.json:
        options.json.write_text(json.dumps(_record(options, runs), indent=1) + "\n")
    if options.plot:
        draw(options.plot, runs)
    return 0


def _runs(options: argparse.Namespace) -> Iterator[Run]:
    policies = [(name, PolicyName.parse(name)) for name in options.policy or ["hfx"]]
    profiles = [named(name) for name in options.profile or [DEFAULT_PROFILE]]
    if options.rate is None and options.trace is None:
        raise ValueError("--rate is missing: how many requests arrive per second?")
    traffic = lru_cache(maxsize=1)(lambda rate, seed: _traffic(options, rate, seed))
    for rate in options.rate or (None,):
        for seed in range(options.seed, options.seed + options.seeds):
            for name, policy in policies:
                jobs = traffic(rate, seed)
                spec = FleetSpec(
                    profiles=profiles,
                    replicas=options.replicas,
                    policy=policy,
                    seed=seed,
                    kv_tokens=options.kv_tokens,
                    prefixes=any(job.hash_ids for job in jobs),
                    host_s=options.host_ms / 1e3,
                    noise=options.noise,
                    cost_error=options.cost_error,
                    slow=options.slow,
                    failures=options.fail,
                )
                yield _run(options, spec, jobs, name, rate, seed)


def _run(
    options: argparse.Namespace,
    spec: FleetSpec,
    jobs: list[Job],
    name: str,
    rate: float | None,
    seed: int,
) -> Run:
    horizon_s = options.seconds or (DEFAULT_SECONDS if options.trace is None else 0.0)
    horizon_s = horizon_s or max(job.request.arrival_s for job in jobs) or 1.0
    title = f"{name} {'' if rate is None else f'{rate:g}/s '}seed {seed}"
    hidden = options.quiet or not sys.stderr.isatty()
    fleet = spec.fleet()
    with tqdm(total=len(jobs), desc=title, unit="req", leave=False, disable=hidden) as bar:
        began_s = time.process_time()
        result = fleet.run(jobs, _told(bar))
        cpu_s = time.process_time() - began_s
    return Run(name, rate, seed, summarize(result, horizon_s), cpu_s)


def _told(bar: tqdm[Any]) -> Callable[[int], None]:
    def tell(more: int) -> None:
        bar.update(more)

    return tell


def _traffic(options: argparse.Namespace, rate: float | None, seed: int) -> list[Job]:
    if options.trace is not None:
        objective = scaled(
            Objective(ttft_s=options.ttft, tpot_s=options.tpot, tier="trace"), options.slo_scale
        )
        jobs = replayed(options.trace, objective, rate=rate, seconds=options.seconds, seed=seed)
    else:
        assert rate is not None
        jobs = generated(
            MIXES[options.workload],
            rate,
            options.seconds or DEFAULT_SECONDS,
            seed,
            kind=options.arrivals,
            cv=options.cv,
            slo_scale=options.slo_scale,
        )
    if not jobs:
        raise ValueError("nothing arrives: raise --rate or --seconds")
    return jobs if options.hints is None else hinted(jobs, options.hints)


def _means(runs: Sequence[Run]) -> Iterator[tuple[str, float | None, Summary, float]]:
    """Policy, rate, mean figures over seeds, and requests simulated per CPU second."""
    groups: dict[tuple[str, float | None], list[Run]] = {}
    for run in runs:
        groups.setdefault((run.policy, run.rate), []).append(run)
    for (policy, rate), group in groups.items():
        requests = sum(run.summary["requests"] for run in group)
        cpu_s = sum(run.cpu_s for run in group)
        yield policy, rate, mean([run.summary for run in group]), requests / max(cpu_s, 1e-9)


def _print(options: argparse.Namespace, runs: Sequence[Run]) -> None:
    profiles = ", ".join(options.profile or [DEFAULT_PROFILE])
    print(
        f"simulated: {options.replicas} x {profiles}, {options.trace or options.workload}, ", end=""
    )
    print(f"SLO scale {options.slo_scale:g}, {options.seeds} seed(s)")
    for policy, rate, figures, speed in _means(runs):
        at = "" if rate is None else f" at {rate:g}/s"
        print(f"\n{policy}{at}: {figures['requests']:,.0f} requests a run")
        print("  promises kept     mean TPOT  every token")
        for label, (mean_rule, token_rule) in _shares(figures):
            print(f"    {label:14} {figures[mean_rule]:9.1%} {figures[token_rule]:12.1%}")
        print(f"    {'worst class':14} {figures['worst_class']:9.1%}")
        for line in _lines(figures):
            print(f"  {line}")
        print(f"  simulated at      {speed:,.0f} requests per CPU second")


def _shares(figures: Summary) -> Iterator[tuple[str, tuple[str, str]]]:
    yield "all", ("joint", "joint_cumulative")
    for key in figures:
        if key.startswith("attainment_") and not key.startswith("attainment_cumulative_"):
            name = key.removeprefix("attainment_")
            yield name, (key, f"attainment_cumulative_{name}")


def _lines(figures: Summary) -> Iterator[str]:
    get = figures.__getitem__
    yield f"goodput           {get('goodput_rps'):.2f} requests/s in time"
    yield f"TTFT              p50 {get('ttft_p50_s'):.3f} s, p99 {get('ttft_p99_s'):.3f} s"
    p50_ms, p99_ms = get("tpot_p50_s") * 1e3, get("tpot_p99_s") * 1e3
    yield f"TPOT              p50 {p50_ms:.1f} ms, p99 {p99_ms:.1f} ms"
    yield (
        f"accelerators      {get('accelerator_s_per_1000_met'):,.0f} s per 1,000 kept promises, "
        f"{get('utilisation'):.0%} busy"
    )
    yield (
        f"relegated         {get('relegated'):.1%}, refused {get('rejected'):.1%}, "
        f"preempted {get('preemptions'):.0f} times"
    )


def _record(options: argparse.Namespace, runs: Sequence[Run]) -> dict[str, Any]:
    settings = {name: _plain(value) for name, value in vars(options).items()}
    return {
        "command": "python -m hfx.simulate",
        "settings": settings,
        "summary": [
            {"policy": policy, "rate": rate, **figures} for policy, rate, figures, _ in _means(runs)
        ],
        "runs": [
            {"policy": run.policy, "rate": run.rate, "seed": run.seed, **run.summary}
            for run in runs
        ],
        "requests_per_cpu_s": [
            {"policy": policy, "rate": rate, "value": speed}
            for policy, rate, _, speed in _means(runs)
        ],
    }


def _plain(value: Any) -> Any:
    if isinstance(value, (str, int, float)) or value is None:
        return value
    if isinstance(value, (list, tuple)):
        return [_plain(part) for part in value]
    return str(value)
