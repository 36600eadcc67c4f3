"""Turns options into a workload: which prompts, with which promises, at which times."""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from hfx.traces import Row, read_trace

from .arrivals import arrival_times_s, ramp, trace_times_s
from .attainment import NO_TARGETS, Targets
from .client import Target
from .tiers import Tier, assign, read_tiers
from .workload import (
    Prompt,
    RandomLengths,
    TokenPool,
    random_prompts,
    read_prompts,
    take,
    trace_prompts,
)


@dataclass(frozen=True, slots=True)
class Plan:
    """Everything that is known to be right before the load starts.

    `arrivals_s` is None in a closed loop. `source` says how prompts were counted.
    """

    target: Target
    prompts: list[Prompt]
    arrivals_s: list[float] | None
    source: str

    @property
    def targets(self) -> list[Targets]:
        return [prompt.targets for prompt in self.prompts]

    @property
    def has_targets(self) -> bool:
        return any(targets != NO_TARGETS for targets in self.targets)

    @property
    def has_tiers(self) -> bool:
        return any(prompt.tier for prompt in self.prompts)


def check(options: argparse.Namespace) -> None:
    """That the options go together.

    Raises:
        ValueError: they don't; the message says which to give or to leave.
    """
    request_rates(options)
    _lengths(options)
    is_trace = options.dataset_name == "trace"
    if options.dataset_name != "random" and options.dataset_path is None:
        raise ValueError(f"--dataset-name {options.dataset_name} needs --dataset-path")
    if options.use_trace_timestamps and not is_trace:
        raise ValueError("--use-trace-timestamps needs --dataset-name trace")
    if options.use_trace_timestamps and _has_rate(options):
        raise ValueError("--use-trace-timestamps takes the place of a rate: give one of them")
    if options.tiers and options.goodput:
        raise ValueError("--tiers brings its own targets: leave --goodput out")
    if options.send_slo and not (options.goodput or options.tiers):
        raise ValueError("--send-slo needs targets to send: give --goodput or --tiers")
    if options.find_rate:
        _check_search(options)


def _check_search(options: argparse.Namespace) -> None:
    if not (options.goodput or options.tiers):
        raise ValueError("--find-rate needs promises to keep: give --goodput or --tiers")
    if not math.isfinite(options.request_rate):
        raise ValueError("--find-rate starts at --request-rate: give one, such as 1")
    if options.use_trace_timestamps:
        raise ValueError("--find-rate chooses the rate: leave --use-trace-timestamps out")
    if options.ramp_up_strategy:
        raise ValueError("--find-rate chooses the rate: leave --ramp-up-strategy out")


def _has_rate(options: argparse.Namespace) -> bool:
    return math.isfinite(options.request_rate) or options.ramp_up_strategy is not None


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


def build(options: argparse.Namespace, target: Target, pool: TokenPool) -> Plan:
    """The workload that options and seed name.

    Raises:
        ValueError: a file or a length is not what it must be.
    """
    rng = np.random.default_rng(options.seed)
    as_text = target.backend == "openai-chat"
    rows = _trace_rows(options, rng) if options.dataset_name == "trace" else None
    count = options.num_prompts if rows is None else len(rows)
    tiers = assign(rng, read_tiers(options.tiers), count) if options.tiers else None
    if rows is not None:
        prompts = trace_prompts(rng, rows, pool, as_text=as_text)
    elif options.dataset_name != "random":
        rows_of_text = read_prompts(options.dataset_path, options.output_len)
        prompts = take(rows_of_text, count, rng)
    else:
        prompts = random_prompts(rng, count, _lengths(options), pool, as_text=as_text)
    if tiers is not None:
        prompts = _with_tiers(rng, prompts, tiers, pool, as_text=as_text)
    else:
        prompts = _with_goodput(prompts, options)
    if options.send_slo:
        prompts = [_sending_slo(prompt) for prompt in prompts]
    return Plan(target, prompts, arrivals(options, rows), pool.source)


def _trace_rows(options: argparse.Namespace, rng: np.random.Generator) -> list[Row]:
    """In the trace's order where its clock is used, else any, again from the start if too few."""
    path: Path = options.dataset_path
    rows = [row.cut(options.max_input_len, options.max_output_len) for row in read_trace(path)]
    if options.use_trace_timestamps:
        return rows[: options.num_prompts]
    order = rng.permutation(len(rows))
    return [rows[order[i % len(order)]] for i in range(options.num_prompts)]


def _lengths(options: argparse.Namespace) -> RandomLengths:
    return RandomLengths(
        input_len=options.random_input_len,
        output_len=options.random_output_len,
        range_ratio=options.random_range_ratio,
    )


def _with_tiers(
    rng: np.random.Generator,
    prompts: Sequence[Prompt],
    tiers: Sequence[Tier],
    pool: TokenPool,
    *,
    as_text: bool,
) -> list[Prompt]:
    """Each prompt as its tier wants it: its lengths where it has any, its targets, its body."""
    made = []
    for prompt, tier in zip(prompts, tiers, strict=True):
        if row := tier.draw(rng):
            (prompt,) = trace_prompts(rng, [row], pool, as_text=as_text)
        made.append(replace(prompt, tier=tier.name, targets=tier.targets, body=tier.request_body))
    return made


def _with_goodput(prompts: Sequence[Prompt], options: argparse.Namespace) -> list[Prompt]:
    targets = Targets.of_ms(dict(options.goodput))
    return [replace(prompt, targets=targets) for prompt in prompts]


def _sending_slo(prompt: Prompt) -> Prompt:
    return replace(prompt, body={**prompt.body, "slo": prompt.targets.slo})


def arrivals(options: argparse.Namespace, rows: Sequence[Row] | None) -> list[float] | None:
    """When each request is due; None in a closed loop. The pattern depends on the seed alone."""
    rng = np.random.default_rng((options.seed, 1))
    if options.use_trace_timestamps:
        return trace_times_s(
            rng, rows or [], speed=options.trace_speed, jitter_s=options.trace_jitter
        )
    rates = request_rates(options)
    if not math.isfinite(rates[0]):
        return None
    return arrival_times_s(rng, rates, options.burstiness)
