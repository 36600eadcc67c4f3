"""Paged attention, every case beside its roof and beside other ways to compute it.

Correctness comes first: a case is compared with the float64 reference before it is timed. Ours, the
two probes of the roof and the others take turns, so that a change of the machine's speed meets all.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np
import torch

from hfx.bench.record import Record
from hfx.kernels import Operators, WorkList, select

from .attention_cases import CASES, FEATURES, GUIDE, Case, Inputs, batch_of
from .attention_peers import call_of
from .attention_plot import plot
from .attention_roofs import Probes
from .record import finish, parser, print_rows
from .timing import medians_s

TOLERANCE = {torch.bfloat16: 2e-2, torch.int8: 8e-2}  # by stored type, relative to 1 + |expected|
MEMORY_BYTES = 160 << 20  # of caches taken in turn: keys and values come from memory
ASYNCHRONOUS_LAUNCHES = 20  # of a device that is waited for once in so many


def measure(
    case: Case, operators: Operators, device: str, threads: int, against: Sequence[str], rounds: int
) -> dict[str, Any]:
    """One row."""
    inputs = Inputs.of(case, device)
    error = inputs.error(operators)
    if not error < TOLERANCE[inputs.spec.stored_dtype]:
        raise SystemExit(f"{case.name}: off by {error}: not timed")
    caches = [inputs.cache(operators)]
    copies = MEMORY_BYTES // (caches[0].k.nbytes + caches[0].v.nbytes)
    caches += [inputs.cache(operators) for _ in range(copies)]
    turn = cycle(caches)
    work, out = operators.plan(inputs.spec, inputs.batch), torch.empty_like(inputs.q_TNH)
    probes = Probes.of(caches, threads)
    ways: dict[str, Callable[[], object]] = {
        "ours": lambda: operators.attend(inputs.q_TNH, next(turn), work, out, inputs.sinks_N),
        "read": probes.read,
        "product": probes.product,
    }
    peers = {name: call_of(name, inputs) for name in against}
    ways |= {name: call for name, call in peers.items() if call is not None}
    times_s = _medians_s(ways, device, rounds)
    flops = 4.0 * work.visible_pairs * inputs.spec.query_heads * inputs.spec.head_size
    roof_s = probes.roof_s(flops, inputs.kv_bytes, times_s["read"], times_s["product"])
    ours_s = times_s["ours"]
    return {
        "case": case.name,
        "device": device,
        "backend": operators.name,
        "threads": threads,
        "us": ours_s * 1e6,
        "useful_gflops": flops / ours_s / 1e9,
        "kv_gbps": inputs.kv_bytes / ours_s / 1e9,
        "roof_fraction": roof_s / ours_s,
        "speedup_vs_sdpa": times_s["sdpa"] / ours_s if "sdpa" in times_s else None,
        "max_error": error,
        "product_gflops": probes.flops / times_s["product"] / 1e9,
        "read_gbps": probes.read_bytes / times_s["read"] / 1e9,
        **_shape_of(work, threads),
        "load": os.getloadavg()[0],
        **{f"{name}_us": times_s[name] * 1e6 if name in times_s else None for name in against},
    }


def _medians_s(
    ways: Mapping[str, Callable[[], object]], device: str, rounds: int
) -> dict[str, float]:
    """Medians of one call, the device's work included."""
    if device == "cpu":
        return medians_s(ways, rounds=rounds)
    wait = getattr(torch, device).synchronize

    def burst(call: Callable[[], object]) -> Callable[[], None]:
        def launch() -> None:
            for _ in range(ASYNCHRONOUS_LAUNCHES):
                call()
            wait()

        return launch

    bursts = medians_s({name: burst(call) for name, call in ways.items()}, rounds=rounds)
    return {name: time_s / ASYNCHRONOUS_LAUNCHES for name, time_s in bursts.items()}


def _shape_of(work: WorkList, programs: int) -> dict[str, float | None]:
    """Multiplied over visible pairs, parts of split tiles, the busiest thread over the mean."""
    if not len(work.items):
        return {"padded": None, "splits": None, "balance": None}
    busiest, _ = work.makespan(programs)
    total, _ = work.makespan(1)
    return {
        "padded": work.computed_pairs / work.visible_pairs,
        "splits": work.slots,
        "balance": busiest * programs / total,
    }


def predict(rows: Sequence[dict[str, Any]]) -> None:
    """Add what two speeds and a start, fitted to the other rows, say about each."""
    features = np.array(
        [
            [r["us"] * r["useful_gflops"] * (r["padded"] or 1), r["us"] * r["kv_gbps"], 1e3]
            for r in rows
        ]
    )
    actual_us = np.array([r["us"] for r in rows])
    for i, row in enumerate(rows):
        others = np.arange(len(rows)) != i
        relative = features[others] / actual_us[others, None]
        weights, *_ = np.linalg.lstsq(relative, np.ones(len(relative)), rcond=None)
        row["predicted_us"] = float(features[i] @ weights)


def plan_us(operators: Operators, rounds: int) -> float:
    """The time to plan a step of 1,024 sequences, a few of them chunks."""
    rng = np.random.default_rng(0)
    pairs = [
        (int(rng.integers(2, 200)) if rng.random() < 0.02 else 1, int(cached))
        for cached in rng.integers(1, 4096, 1024)
    ]
    spec, batch = Inputs.of(GUIDE).spec, batch_of(pairs)
    return medians_s({"plan": lambda: operators.plan(spec, batch)}, rounds=rounds)["plan"] * 1e6


def summary_of(rows: Sequence[Mapping[str, Any]], threads: int) -> dict[str, float]:
    """The figures with targets: medians over their cases, of those that were timed."""
    by_name = {row["case"]: row for row in rows}

    def median(figure: str, cases: Sequence[Case]) -> float | None:
        values = [by_name[c.name][figure] for c in cases if c.name in by_name]
        known = [value for value in values if value is not None]
        return statistics.median(known) if known else None

    decodes = [case for case in CASES if case.kind == "decode"]
    by_group = {g: [case for case in decodes if case.group == g] for g in (4, 8)}
    figures = {
        "prompt_roof_fraction": median("roof_fraction", [GUIDE]),
        "prompt_speedup_sdpa": median("speedup_vs_sdpa", [GUIDE]),
        "decode_roof_fraction_g4": median("roof_fraction", by_group[4]),
        "decode_roof_fraction_g8": median("roof_fraction", by_group[8]),
    }
    if threads == 2:
        figures["decode_speedup_sdpa_2t"] = median("speedup_vs_sdpa", by_group[4])
    return {name: value for name, value in figures.items() if value is not None}


def print_static(device: str) -> None:
    """What can be said without the device: the compiled kernels' table."""
    print(f"no {device} here: static, not timed", flush=True)
    raise SystemExit(subprocess.run([sys.executable, "-m", "benchmarks.targets"]).returncode)


def is_present(device: str) -> bool:
    """Whether torch can compute there."""
    return device == "cpu" or (hasattr(torch, device) and getattr(torch, device).is_available())


def options_of(arguments: Sequence[str] | None) -> argparse.Namespace:
    options = parser(__doc__.splitlines()[0])
    options.add_argument("--device", choices=("cpu", "cuda", "npu"), default="cpu")
    options.add_argument("--backend", help="of ours; without it, the first that can run")
    options.add_argument(
        "--against",
        default="sdpa",
        help="others, by commas: sdpa, flex, or a back end of ours such as flash_attn, flashinfer",
    )
    options.add_argument("--threads", type=int, default=torch.get_num_threads())
    options.add_argument("--only", default="", help="cases whose name contains this")
    options.add_argument("--plot", type=Path, metavar="FILE", help="write a roofline, SVG or PNG")
    return options.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> None:
    options = options_of(arguments)
    if not is_present(options.device):
        print_static(options.device)
    torch.set_num_threads(options.threads)
    record = Record("attention")
    against = [name for name in options.against.split(",") if name]
    rounds = 3 if options.quick else 21
    try:
        operators = select(options.backend, device=options.device)
        for case in (*CASES, *FEATURES):
            if options.only in case.name:
                row = measure(case, operators, options.device, options.threads, against, rounds)
                record.rows.append(row)
    except (RuntimeError, ValueError) as error:
        raise SystemExit(str(error)) from error
    if len(record.rows) > 3:
        predict(record.rows)
    print_rows(record.rows)
    record.summary = summary_of(record.rows, options.threads)
    record.summary["plan_us_1024"] = plan_us(operators, rounds)
    finish(record, options)
    if options.plot:
        plot(record.rows, options.plot)


if __name__ == "__main__":
    main()
