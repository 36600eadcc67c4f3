"""`python -m hfx.simulate`: runs every policy at every rate and seed, and says what was kept."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import cast

from hfx.machine import cores

from .looks import check_plot, require_matplotlib
from .options import FROM_ENVIRONMENT, parser
from .output import record, text
from .plots import draw
from .report import write_report
from .scenario import DEFAULT_PROFILE, LIMITS, MOST_REPLICAS, Scenario
from .setup import PolicyName
from .sweep import Swept, points, sweep

DEFAULT_POLICY = "hfx"
INTERRUPTED = 130  # the exit status of whoever was told to stop by Ctrl-C


def main(argv: Sequence[str] | None = None) -> int:
    """The command; returns its exit status."""
    out = parser()
    options = out.parse_args(argv)
    options.policy = options.policy or [DEFAULT_POLICY]
    if options.limits is None:
        options.limits = options.report is not None
    ledger = _ledger(options)
    try:
        scenario = _scenario(options)
        swept = _swept(options, scenario, ledger)
    except OSError as error:
        out.error(f"{error.filename}: {error.strerror}; give another path")
    except (ValueError, RuntimeError) as error:
        out.error(str(error))
    except KeyboardInterrupt:
        kept = f": what is done is in {ledger}, and the same command goes on from there"
        print(f"stopped{kept if ledger else ''}", file=sys.stderr)
        return INTERRUPTED
    if swept.resumed:
        print(f"{swept.resumed} of {len(swept.runs)} runs were in {ledger}", file=sys.stderr)
    print(_headline(options, scenario))
    print(text(swept.runs))
    _write(options, scenario, swept)
    return 0


def _swept(options: argparse.Namespace, scenario: Scenario, ledger: Path | None) -> Swept:
    if options.rate is None and options.trace is None:
        raise ValueError("--rate is missing: how many requests arrive per second?")
    if options.report:
        require_matplotlib("--report")
    if options.plot:
        check_plot(options.plot)
    for name in options.policy:
        PolicyName.parse(name)
    scenario.models()
    _require_writable(options)
    seeds = range(options.seed, options.seed + options.seeds)
    every = points(options.policy, options.rate or (None,), seeds)
    if options.limits:
        every += points([LIMITS], options.rate or (None,), seeds[:1])
    jobs = options.jobs or cores()
    return sweep(scenario, every, jobs=jobs, ledger=ledger, is_quiet=options.quiet)


def _require_writable(options: argparse.Namespace) -> None:
    """Find out before hours of simulation; makes the folders."""
    for path in (options.json, options.plot):
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.open("a").close()
    if options.report:
        options.report.mkdir(parents=True, exist_ok=True)


def _data(options: argparse.Namespace) -> Path | None:
    if options.data != FROM_ENVIRONMENT:
        return cast("Path | None", options.data)
    if not (folder := os.environ.get("HFX_DATA")):
        raise ValueError("--data names no folder and HFX_DATA is not set: give one of them")
    return Path(folder)


def _ledger(options: argparse.Namespace) -> Path | None:
    """Where finished runs are kept; one run alone has nothing to go on from."""
    runs = len(options.policy) * len(options.rate or (None,)) * options.seeds
    if runs + options.limits == 1 or options.fresh:
        return None
    if options.report:
        return Path(options.report / "runs.jsonl")
    return Path(f"{options.json}.runs.jsonl") if options.json else None


def _scenario(options: argparse.Namespace) -> Scenario:
    return Scenario(
        workload=options.workload,
        trace=options.trace,
        data=_data(options),
        clock=options.clock,
        jitter_s=options.jitter,
        horizon_s=options.seconds,
        arrivals=options.arrivals,
        cv=options.cv,
        day_s=options.day_seconds,
        slo_scale=options.slo_scale,
        ttft_s=options.ttft,
        tpot_s=options.tpot,
        hints=options.hints,
        profiles=tuple(options.profile or (DEFAULT_PROFILE,)),
        replicas=options.replicas,
        kv_tokens=options.kv_tokens,
        host_s=options.host_ms / 1e3,
        noise=options.noise,
        cost_error=options.cost_error,
        slow=tuple(options.slow),
        failures=tuple(options.fail),
        prefill_replicas=options.prefill_replicas,
        link_gbps=options.link_gbps,
        flip_s=options.flip_seconds,
        scaler=options.scaler,
        least=options.least,
        most=options.most or max(MOST_REPLICAS, options.replicas),
        cold_start_s=options.cold_start,
        weight_bytes=round(options.weights_gb * 1e9),
        from_replicas=options.weights_from == "replicas",
    )


def _headline(options: argparse.Namespace, scenario: Scenario) -> str:
    profiles = ", ".join(scenario.profiles)
    return (
        f"simulated: {scenario.replicas} x {profiles}, {scenario.trace or scenario.workload}, "
        f"SLO scale {scenario.slo_scale:g}, {options.seeds} seed(s)"
    )


def _write(options: argparse.Namespace, scenario: Scenario, swept: Swept) -> None:
    settings = scenario.settings() | {
        "policies": options.policy,
        "rates": options.rate,
        "seeds": [options.seed, options.seeds],
    }
    if options.json:
        options.json.write_text(json.dumps(record(settings, swept.runs), indent=1) + "\n")
    if options.plot:
        draw(options.plot, swept.runs)
    if options.report:
        page = write_report(options.report, scenario, swept.runs)
        print(f"report: {page}")
