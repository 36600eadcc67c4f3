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
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np
import torch

from hfx.bench.record import ROOT, Record
from hfx.engine.devices import absence
from hfx.kernels import Operators, WorkList, select

from .attention_cases import CASES, FEATURES, GUIDE, Case, Inputs, batch_of, spec_of
from .attention_cost import predict, quantities_of
from .attention_peers import Call, call_of
from .attention_plot import FORMATS, plot
from .attention_roofs import Probes
from .record import finish, parser, print_rows
from .timing import medians_s

ASYNCHRONOUS_LAUNCHES = 20  # of a device that is waited for once in so many


@dataclass(frozen=True, slots=True)
class Measured:
    """A case's row, what its prediction is made of, and why a peer wasn't timed, by its name."""

    row: dict[str, Any]
    quantities: tuple[float, ...]
    not_timed: dict[str, str]


def measure(
    case: Case, operators: Operators, device: str, threads: int, against: Sequence[str], rounds: int
) -> Measured:
    """One row.

    Raises:
        ArithmeticError: it is wrong, and so not timed.
    """
    inputs = Inputs.of(case, device)
    error = inputs.error(operators)
    caches = inputs.caches(operators)
    turn = cycle(caches)
    work, out = operators.plan(inputs.spec, inputs.batch), torch.empty_like(inputs.q_TNH)
    probes = Probes.of(caches, threads)
    ways: dict[str, Call] = {
        "ours": lambda: operators.attend(inputs.q_TNH, next(turn), work, out, inputs.sinks_N),
        "read": probes.read,
        "product": probes.product,
    }
    peers = {name: call_of(name, inputs) for name in against}
    ways |= {name: call for name, call in peers.items() if not isinstance(call, str)}
    times_s = _medians_s(ways, device, rounds)
    flops = 4.0 * work.visible_pairs * inputs.spec.query_heads * inputs.spec.head_size
    roof_s = probes.roof_s(flops, inputs.kv_bytes, times_s["read"], times_s["product"])
    ours_s = times_s["ours"]
    row = {
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
        "predicted_us": None,
    }
    reasons = {name: call for name, call in peers.items() if isinstance(call, str)}
    return Measured(row, quantities_of(work, threads), reasons)


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


def print_predictions(rows: Sequence[Mapping[str, Any]]) -> None:
    """How far predictions are from times, over all cases."""
    errors = [abs(row["predicted_us"] / row["us"] - 1) for row in rows if row["predicted_us"]]
    if errors:
        print(
            f"\npredicted against actual: off by {statistics.median(errors):.0%} in the median, "
            f"{max(errors):.0%} at most"
        )


def print_not_timed(measured: Sequence[Measured]) -> None:
    """Each peer's reasons, with the cases that they hold for."""
    cases: dict[tuple[str, str], list[str]] = {}
    for each in measured:
        for name, reason in each.not_timed.items():
            cases.setdefault((name, reason), []).append(each.row["case"])
    for (name, reason), names in cases.items():
        where = "any case" if len(names) == len(measured) else "; ".join(names)
        print(f"{name} not timed in {where}: {reason}")


def plan_us(operators: Operators, device: str, rounds: int) -> float:
    """The time to plan a step of 1,024 sequences, a few of them chunks."""
    rng = np.random.default_rng(0)
    pairs = [
        (int(rng.integers(2, 200)) if rng.random() < 0.02 else 1, int(cached))
        for cached in rng.integers(1, 4096, 1024)
    ]
    spec = spec_of(GUIDE, device)
    batch = batch_of(pairs, spec.page_tokens)
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


def print_static(options: argparse.Namespace) -> None:
    """What can be said without the device: the compiled kernels' table."""
    print(f"no {options.device} here: static, not timed", flush=True)
    command = [sys.executable, "-m", "benchmarks.targets"]
    only = "Ascend" if options.device == "npu" else options.only  # recorded: see `make ascend`
    if only:
        command += ["--only", only]
    raise SystemExit(subprocess.run(command, cwd=ROOT).returncode)


def is_present(device: str) -> bool:
    """Whether torch can compute there."""
    return device == "cpu" or absence(device) is None


def options_of(arguments: Sequence[str] | None) -> argparse.Namespace:
    options = parser(__doc__.splitlines()[0])
    options.add_argument("--device", choices=("cpu", "cuda", "npu"), default="cpu")
    options.add_argument("--backend", help="of ours; without it, the first that can run")
    options.add_argument(
        "--against",
        type=lambda names: [name for name in names.split(",") if name],
        default=["sdpa"],
        help="others, by commas: sdpa, flex, or a back end of ours such as flash_attn, flashinfer",
    )
    options.add_argument("--threads", type=int, default=torch.get_num_threads())
    options.add_argument("--only", default="", help="cases whose name contains this")
    options.add_argument("--plot", type=Path, metavar="FILE", help="write a roofline, SVG or PNG")
    parsed = options.parse_args(arguments)
    if parsed.plot and parsed.plot.suffix not in FORMATS:
        options.error(f"--plot is {parsed.plot}: its name must end in one of {', '.join(FORMATS)}")
    if parsed.threads < 1:
        options.error(f"--threads is {parsed.threads}: at least 1 is needed")
    return parsed


def measure_all(
    options: argparse.Namespace, rounds: int
) -> tuple[Operators, list[Measured], dict[str, str]]:
    """Every case that was chosen, by the back end that was or else the first that can run it.

    With it, what plans the guide's case, and why the other cases weren't timed, by name.

    Raises:
        RuntimeError, ValueError, ArithmeticError: nothing can be timed, or it's wrong.
    """
    operators = select(options.backend, device=options.device, spec=spec_of(GUIDE, options.device))
    chosen = [case for case in (*CASES, *FEATURES) if options.only in case.name]
    if not chosen:
        raise ValueError(f"--only is {options.only!r}: no case's name contains it")
    measured, reasons = [], {}
    for case in chosen:
        try:
            able = select(
                options.backend, device=options.device, spec=spec_of(case, options.device)
            )
        except RuntimeError as error:
            reasons[case.name] = str(error)
            continue
        measured.append(
            measure(case, able, options.device, options.threads, options.against, rounds)
        )
    if not measured:
        raise ValueError("; ".join(reasons.values()))
    predicted = predict([m.quantities for m in measured], [m.row["us"] for m in measured])
    for each, time_us in zip(measured, predicted, strict=False):
        each.row["predicted_us"] = time_us
    return operators, measured, reasons


def main(arguments: Sequence[str] | None = None) -> None:
    options = options_of(arguments)
    if not is_present(options.device):
        print_static(options)
    torch.set_num_threads(options.threads)
    record = Record("attention")
    rounds = 3 if options.quick else 15
    try:
        operators, measured, reasons = measure_all(options, rounds)
    except (RuntimeError, ValueError, ArithmeticError) as error:
        raise SystemExit(str(error)) from error
    record.rows = [each.row for each in measured]
    print_rows(record.rows)
    print_predictions(record.rows)
    print_not_timed(measured)
    for name, reason in reasons.items():
        print(f"{name} not timed: {reason}")
    record.summary = summary_of(record.rows, options.threads)
    record.summary["plan_us_1024"] = plan_us(operators, options.device, rounds)
    finish(record, options)
    if options.plot:
        plot(record.rows, options.plot)


if __name__ == "__main__":
    main()
