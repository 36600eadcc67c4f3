"""What `python -m hfx.bench` does: check server and input, run the load, report it."""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import os
import sys
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

import aiohttp
import numpy as np
import uvloop

from . import plan as planning
from . import plots, report
from .arrivals import arrival_times_s
from .attainment import Share, attainment, by_tier
from .client import Target
from .load import Run, open_session, run_load
from .metrics import client_lag, saturation, summarize
from .options import parser
from .outcome import Outcome
from .plan import Plan
from .progress import Progress
from .record import Record, finite
from .server import Unusable, local_pool, models, served_pool, try_once
from .sweep import Found, Trial, cannot_reach, highest_rate
from .workload import Prompt, TokenPool


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status."""
    options = parser().parse_args(argv)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        try:
            planning.check(options)
            if options.plot:
                plots.check(options.plot)
            plan = runner.run(_plan(options))
            record = Record("hfx.bench")
            record.machine["emulated"] = plan.target.emulated
            if plan.target.emulated is not None:
                print(f"EMULATED: the server's device is {plan.target.emulated}, by its profile")
            if options.find_rate:
                return _report_search(options, runner.run(_search(plan, options)), record)
            run = runner.run(_measure(plan, options))
        except (Unusable, ValueError, OSError) as error:
            print(f"hfx.bench: error: {error}", file=sys.stderr)
            return 2
        except KeyboardInterrupt:
            print("hfx.bench: interrupted, nothing saved", file=sys.stderr)
            return 130
    return _report(options, plan, run, record)


async def _plan(options: argparse.Namespace) -> Plan:
    for folder in _result_folders(options):
        folder.mkdir(parents=True, exist_ok=True)
    async with open_session() as session:
        target = await _target(session, options)
        plan = planning.build(options, target, await _pool(session, target, options))
        await try_once(session, target)
        return plan


async def _target(session: aiohttp.ClientSession, options: argparse.Namespace) -> Target:
    headers = dict(options.header)
    if key := options.api_key or os.environ.get("OPENAI_API_KEY"):
        headers.setdefault("Authorization", f"Bearer {key}")
    served = await models(session, options.base_url, headers, options.ready_check_timeout_sec)
    if not (options.model or served.ids):
        raise Unusable(f"{options.base_url} lists no model: give --model")
    return Target(
        base_url=options.base_url,
        model=options.model or served.ids[0],
        backend=options.backend,
        endpoint=options.endpoint,
        ignore_eos=options.ignore_eos,
        headers=headers,
        extra_body=options.extra_body,
        emulated=served.emulated,
    )


async def _pool(
    session: aiohttp.ClientSession, target: Target, options: argparse.Namespace
) -> TokenPool:
    if options.dataset_name in ("sharegpt", "custom") and not options.tiers:
        return TokenPool(source=f"texts of {options.dataset_path}")
    if options.tokenizer:
        return local_pool(options.tokenizer)
    return await served_pool(session, target)


async def _measure(plan: Plan, options: argparse.Namespace) -> Run:
    async with open_session() as session:
        if options.num_warmups:
            warm = [plan.prompts[i % len(plan.prompts)] for i in range(options.num_warmups)]
            await run_load(session, plan.target, warm, max_concurrency=1)
        with Progress(plan.prompts, is_shown=not options.disable_tqdm) as progress:
            return await run_load(
                session,
                plan.target,
                plan.prompts,
                arrivals_s=plan.arrivals_s,
                max_concurrency=options.max_concurrency,
                on_done=progress.done,
            )


async def _search(plan: Plan, options: argparse.Namespace) -> Found:
    """Trials on the plan's prompts; a rate's arrivals are the same pattern, stretched."""
    async with open_session() as session:

        async def measure(rate: float, run: int) -> tuple[Share, bool]:
            rng = np.random.default_rng((options.seed, 1, run))
            arrivals_s = arrival_times_s(rng, [rate] * len(plan.prompts), options.burstiness)
            trial = replace(plan, arrivals_s=arrivals_s)
            return await _trial(session, trial, options, f"{rate:.3g}/s")

        def show(trial: Trial) -> None:
            if not options.disable_tqdm:
                print(report.trial_line(trial, options.find_rate), file=sys.stderr)

        return await highest_rate(
            measure,
            goal=options.find_rate,
            start=options.request_rate,
            tolerance=options.find_tolerance,
            runs=options.find_runs,
            on_trial=show,
        )


async def _trial(
    session: aiohttp.ClientSession, plan: Plan, options: argparse.Namespace, title: str
) -> tuple[Share, bool]:
    """One run at one rate, given up as soon as the goal is out of reach."""
    hopeless = asyncio.Event()
    warm = [at_s < options.warmup_s for at_s in plan.arrivals_s or ()]
    is_shown = not options.disable_tqdm
    kept: list[bool] = []
    with Progress(plan.prompts, title=title, is_shown=is_shown) as progress:

        def done(i: int, outcome: Outcome) -> None:
            progress.done(i, outcome)
            if not warm[i]:
                kept.append(plan.prompts[i].targets.are_kept(outcome))
            if cannot_reach(Share(sum(kept), len(kept)), options.find_rate, len(warm) - sum(warm)):
                hopeless.set()

        await run_load(
            session,
            plan.target,
            plan.prompts,
            arrivals_s=plan.arrivals_s,
            max_concurrency=options.max_concurrency,
            on_done=done,
            stop=hopeless,
        )
    return Share(sum(kept), len(kept)), hopeless.is_set()


def _counted(plan: Plan, run: Run, warmup_s: float) -> tuple[list[Prompt], list[Outcome], float]:
    """Prompts and outcomes that count, and the seconds that they stand for."""
    pairs = [
        (prompt, outcome)
        for prompt, outcome in zip(plan.prompts, run.outcomes, strict=True)
        if outcome.scheduled_s >= run.start_s + warmup_s
    ]
    if not pairs:
        raise ValueError(
            f"no request started after the {warmup_s:g} s of --warmup-s: raise --num-prompts"
        )
    prompts, outcomes = zip(*pairs, strict=True)
    return list(prompts), list(outcomes), run.duration_s - warmup_s


def _report(options: argparse.Namespace, plan: Plan, run: Run, record: Record) -> int:
    try:
        prompts, outcomes, duration_s = _counted(plan, run, options.warmup_s)
    except ValueError as error:
        print(f"hfx.bench: error: {error}", file=sys.stderr)
        return 2
    result = _asked(options, plan) | _measured(options, plan, run, prompts, outcomes, duration_s)
    print(report.table(result))
    _save(options, result, report.rows(outcomes, prompts), record)
    if options.plot:
        tiers = [prompt.tier for prompt in prompts]
        plots.draw_cdfs(options.plot, outcomes, [p.targets for p in prompts], tiers)
        print(f"Drew {options.plot}")
    return 0 if result["completed"] else 1


def _asked(options: argparse.Namespace, plan: Plan) -> dict[str, Any]:
    """vLLM's keys of what was asked, and how prompts were counted."""
    return {
        "date": datetime.now().strftime("%Y%m%d-%H%M%S"),
        "backend": options.backend,
        "label": options.label,
        "model_id": plan.target.model,
        "emulated": plan.target.emulated,
        "tokenizer_id": options.tokenizer or plan.target.model,
        "num_prompts": len(plan.prompts),
        "request_rate": options.request_rate if math.isfinite(options.request_rate) else "inf",
        "burstiness": options.burstiness,
        "max_concurrency": options.max_concurrency,
        "prompt_source": plan.source,
        **dict(options.metadata),
    }


def _measured(
    options: argparse.Namespace,
    plan: Plan,
    run: Run,
    prompts: Sequence[Prompt],
    outcomes: Sequence[Outcome],
    duration_s: float,
) -> dict[str, Any]:
    result = summarize(
        outcomes,
        duration_s,
        aimed_tokens=[prompt.prompt_tokens for prompt in prompts],
        metrics=options.percentile_metrics,
        percentiles=options.metric_percentiles,
    )
    targets = [prompt.targets for prompt in prompts]
    if plan.has_targets:
        result |= attainment(outcomes, targets, duration_s)
    if plan.has_tiers:
        tiers = [prompt.tier for prompt in prompts]
        result["tiers"] = by_tier(outcomes, targets, tiers, duration_s)
    result |= client_lag(outcomes, run.loop_lags_s)
    return result | (saturation(outcomes) if plan.arrivals_s is not None else {})


def _report_search(options: argparse.Namespace, found: Found, record: Record) -> int:
    result = report.search(found, options.find_rate)
    print(report.search_table(result))
    record.rows = result["trials"]
    record.summary = {"highest_rate": found.passed, "lowest_failed_rate": found.failed}
    if options.json:
        record.write(options.json)
        print(f"Wrote {options.json}")
    if options.plot:
        plots.draw_sweep(options.plot, result["trials"], options.find_rate)
        print(f"Drew {options.plot}")
    return 0 if found.passed else 1


def _result_folders(options: argparse.Namespace) -> list[Path]:
    folders = [options.result_dir] if options.save_result or options.save_detailed else []
    return folders + [path.parent for path in (options.json, options.plot) if path]


def _save(
    options: argparse.Namespace,
    result: dict[str, Any],
    rows: list[dict[str, Any]],
    record: Record,
) -> None:
    if options.save_result or options.save_detailed:
        kept = result if options.save_detailed else report.without_details(result)
        path = options.result_dir / (options.result_filename or _filename(options, result))
        path.write_text(json.dumps(finite(kept)) + "\n")
        print(f"Saved {path}")
    if options.json:
        record.rows = rows
        record.summary = report.summary(result)
        record.write(options.json)
        print(f"Wrote {options.json}")


def _filename(options: argparse.Namespace, result: dict[str, Any]) -> str:
    limit = f"-concurrency{options.max_concurrency}" if options.max_concurrency else ""
    model = Path(result["model_id"]).name
    return f"{options.backend}-{options.request_rate:g}qps{limit}-{model}-{result['date']}.json"
