"""What `python -m hfx.bench` does: check server and input, run the load, report it."""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import aiohttp
import numpy as np
import uvloop
from tqdm import tqdm

from . import report
from .client import Target
from .load import Run, open_session, run_load
from .metrics import saturation, summarize
from .options import parser
from .record import Record, finite
from .server import Unusable, local_pool, models, served_pool, try_once
from .workload import (
    Prompt,
    RandomLengths,
    arrival_times_s,
    ramp,
    random_prompts,
    read_prompts,
    take,
)


@dataclass(frozen=True, slots=True)
class Plan:
    """Everything that is known to be right before the load starts."""

    target: Target
    prompts: list[Prompt]
    arrivals_s: list[float] | None


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status."""
    options = parser().parse_args(argv)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        try:
            plan = runner.run(_plan(options))
            record = Record("hfx.bench")
            run = runner.run(_measure(plan, options))
        except (Unusable, ValueError, OSError) as error:
            print(f"hfx.bench: error: {error}", file=sys.stderr)
            return 2
        except KeyboardInterrupt:
            print("hfx.bench: interrupted, nothing saved", file=sys.stderr)
            return 130
    result = _result(options, plan, run)
    print(report.table(result))
    _save(options, result, run, record)
    return 0 if result["completed"] else 1


async def _plan(options: argparse.Namespace) -> Plan:
    rates = request_rates(options)
    rng = np.random.default_rng(options.seed)
    for folder in _result_folders(options):
        folder.mkdir(parents=True, exist_ok=True)
    async with open_session() as session:
        target = await _target(session, options)
        prompts = await _prompts(session, target, options, rng)
        await try_once(session, target)
    is_open_loop = math.isfinite(rates[0])
    arrivals_s = arrival_times_s(rng, rates, options.burstiness) if is_open_loop else None
    return Plan(target, prompts, arrivals_s)


def request_rates(options: argparse.Namespace) -> list[float]:
    """The rate before each request.

    Raises:
        ValueError: the ramp-up options are incomplete, or are given beside --request-rate.
    """
    ends = (options.ramp_up_start_rps, options.ramp_up_end_rps)
    if options.ramp_up_strategy is None:
        if any(ends):
            raise ValueError("--ramp-up-start-rps and --ramp-up-end-rps need --ramp-up-strategy")
        return [options.request_rate] * options.num_prompts
    if not all(ends):
        raise ValueError("--ramp-up-strategy needs --ramp-up-start-rps and --ramp-up-end-rps")
    if math.isfinite(options.request_rate):
        raise ValueError("--ramp-up-strategy takes the place of --request-rate: give one of them")
    return ramp(options.ramp_up_strategy, *ends, options.num_prompts)


async def _target(session: aiohttp.ClientSession, options: argparse.Namespace) -> Target:
    headers = dict(options.header)
    if key := options.api_key or os.environ.get("OPENAI_API_KEY"):
        headers.setdefault("Authorization", f"Bearer {key}")
    served = await models(session, options.base_url, headers, options.ready_check_timeout_sec)
    if not (options.model or served):
        raise Unusable(f"{options.base_url} lists no model: give --model")
    return Target(
        base_url=options.base_url,
        model=options.model or served[0],
        backend=options.backend,
        endpoint=options.endpoint,
        ignore_eos=options.ignore_eos,
        headers=headers,
        extra_body=options.extra_body,
    )


async def _prompts(
    session: aiohttp.ClientSession,
    target: Target,
    options: argparse.Namespace,
    rng: np.random.Generator,
) -> list[Prompt]:
    if options.dataset_name != "random":
        if options.dataset_path is None:
            raise Unusable(f"--dataset-name {options.dataset_name} needs --dataset-path")
        rows = read_prompts(options.dataset_path, options.output_len)
        return take(rows, options.num_prompts, rng)
    lengths = RandomLengths(
        input_len=options.random_input_len,
        output_len=options.random_output_len,
        range_ratio=options.random_range_ratio,
    )
    if options.tokenizer:
        pool = local_pool(options.tokenizer)
    else:
        pool = await served_pool(session, target)
    as_text = options.backend == "openai-chat"
    return random_prompts(rng, options.num_prompts, lengths, pool, as_text=as_text)


async def _measure(plan: Plan, options: argparse.Namespace) -> Run:
    async with open_session() as session:
        with tqdm(total=len(plan.prompts), disable=options.disable_tqdm, unit="req") as bar:
            return await run_load(
                session,
                plan.target,
                plan.prompts,
                arrivals_s=plan.arrivals_s,
                max_concurrency=options.max_concurrency,
                on_done=lambda _: bar.update(),
            )


def _result(options: argparse.Namespace, plan: Plan, run: Run) -> dict[str, Any]:
    """vLLM's keys: what was asked, what was measured."""
    asked = {
        "date": datetime.now().strftime("%Y%m%d-%H%M%S"),
        "backend": options.backend,
        "label": options.label,
        "model_id": plan.target.model,
        "tokenizer_id": options.tokenizer or plan.target.model,
        "num_prompts": options.num_prompts,
        "request_rate": options.request_rate if math.isfinite(options.request_rate) else "inf",
        "burstiness": options.burstiness,
        "max_concurrency": options.max_concurrency,
        **dict(options.metadata),
    }
    measured = summarize(
        run.outcomes,
        run.duration_s,
        aimed_tokens=[prompt.prompt_tokens for prompt in plan.prompts],
        goodput_ms=dict(options.goodput),
        metrics=options.percentile_metrics,
        percentiles=options.metric_percentiles,
    )
    is_open_loop = plan.arrivals_s is not None
    return asked | measured | (saturation(run.outcomes) if is_open_loop else {})


def _result_folders(options: argparse.Namespace) -> list[Path]:
    folders = [options.result_dir] if options.save_result or options.save_detailed else []
    return folders + ([options.json.parent] if options.json else [])


def _save(options: argparse.Namespace, result: dict[str, Any], run: Run, record: Record) -> None:
    if options.save_result or options.save_detailed:
        kept = result if options.save_detailed else report.without_details(result)
        path = options.result_dir / (options.result_filename or _filename(options, result))
        path.write_text(json.dumps(finite(kept)) + "\n")
        print(f"Saved {path}")
    if options.json:
        record.rows = report.rows(run.outcomes)
        record.summary = report.summary(result)
        record.write(options.json)
        print(f"Wrote {options.json}")


def _filename(options: argparse.Namespace, result: dict[str, Any]) -> str:
    limit = f"-concurrency{options.max_concurrency}" if options.max_concurrency else ""
    model = Path(result["model_id"]).name
    return f"{options.backend}-{options.request_rate:g}qps{limit}-{model}-{result['date']}.json"
