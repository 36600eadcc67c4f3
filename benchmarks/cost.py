"""How well cost models predict: public measurements, steps left out of the fit, a run again.

`python -m benchmarks.cost [--data DIR] [--json FILE]`. Errors are fractions of the measured time.
"""

import argparse
import os
import random
import timeit
from collections.abc import Callable, Iterator, Sequence
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np

from hfx.bench.record import Record
from hfx.cost import GemmCost, Key, StepCost, fit, judge, preset
from hfx.cost.loaders import aiconfigurator, llmservingsim
from hfx.cost.loaders.compose import Step
from hfx.cost.presets.make import LLAMA_8B, a100_steps, with_engine, within_memory
from hfx.request import Mix

from .cost_live import measure_live
from .fidelity_replay import errors, measured, replayed
from .record import parser, print_rows

SEED = 0
FEW = 400  # points of a device nobody has fitted
FEW_DECODES = 40  # of them without prompts
KEY = Key(device="measured", model="llama-3.1-8b", dtype="bfloat16")
Rows = Iterator[dict[str, Any]]


def rtx_steps(data: Path) -> list[Step]:
    """Every measured attention as a whole step, of at most the rows that were measured."""
    stem = "lss_RTXPRO6000_Llama-3.1-8B_tp1"
    names = ("attention", "dense", "perseq")
    paths = [data / f"{stem}_{name}.csv.gz" for name in names]
    return llmservingsim.load(*paths, layers=LLAMA_8B.layers)


def thirds(steps: Sequence[Step], key: Callable[[Step], object]) -> tuple[list[Step], list[Step]]:
    """Two thirds to fit and one third to judge, parted by shape: no shape is in both."""
    shapes = sorted({key(step) for step in steps}, key=repr)
    left_out = set(random.Random(SEED).sample(shapes, len(shapes) // 3))
    seen = [step for step in steps if key(step) not in left_out]
    return seen, [step for step in steps if key(step) in left_out]


def error_rows(what: str, model: StepCost, left_out: Sequence[Step]) -> Rows:
    """The errors of steps that a model has not seen, by regime."""
    for regime, quality in judge(model, left_out).items():
        yield {
            "what": what,
            "regime": regime,
            "steps": quality.steps,
            "mape": quality.mape,
            "p50": quality.p50,
            "p90": quality.p90,
            "coverage": quality.coverage,
        }


def held_out(data: Path, record: Record) -> None:
    """A third of the measured shapes, predicted by a fit of the others."""
    every = rtx_steps(data)
    steps = within_memory(every, 600_000)
    seen, left_out = thirds(steps, lambda step: step[0])
    model = fit(seen, key=KEY)
    rows = list(error_rows("rtxpro6000", model, left_out))
    record.rows += rows
    decode, mixed = rows
    record.summary |= {
        "decode_only_mape": decode["mape"],
        "mixed_mape": mixed["mape"],
        "mixed_p90": mixed["p90"],
    }
    seen, left_out = thirds(every, lambda step: step[0])
    rows = error_rows("rtxpro6000, also beyond its memory", fit(seen, key=KEY), left_out)
    record.rows += rows
    seen, left_out = thirds(steps, lambda step: step[0].prefill_tokens or step[0])
    rows = error_rows("rtxpro6000, unseen chunk lengths", fit(seen, key=KEY), left_out)
    record.rows += rows


def products(data: Path, record: Record) -> None:
    """A third of the weight shapes (n, k), predicted from products with the others."""
    for device in ("h100", "a100"):
        table = aiconfigurator.gemms(data / f"aic_{device}_sxm_gemm.csv.gz")
        shapes = sorted({(n, k) for _, n, k, _ in table})
        left_out = set(random.Random(SEED).sample(shapes, len(shapes) // 3))
        cost = GemmCost.fit([row for row in table if row[1:3] not in left_out])
        judged = [row for row in table if row[1:3] in left_out]
        errors = np.abs([cost.seconds(m, n, k)[0] / t - 1 for m, n, k, t in judged])
        p50, p90 = np.quantile(errors, (0.5, 0.9)).tolist()
        mape = float(errors.mean())
        row = {"what": f"{device} products", "regime": "gemm", "steps": len(judged)}
        record.rows.append(row | {"mape": mape, "p50": p50, "p90": p90, "coverage": None})
        if device == "h100":
            record.summary["gemm_mape"] = mape


def few_points(data: Path, record: Record) -> None:
    """Devices of which 400 steps are known: the worse device's error, mean of three draws."""
    devices = {
        "rtxpro6000": within_memory(rtx_steps(data), 600_000),
        "a100, composed": a100_steps(data)[0],
    }
    worst = 0.0
    for name, steps in devices.items():
        errors = []
        for draw in range(3):
            order = random.Random(draw).sample(steps, len(steps))
            decodes = [step for step in order if not step[0].chunks]
            mixed = [step for step in order if step[0].chunks]
            few = decodes[:FEW_DECODES] + mixed[: FEW - FEW_DECODES]
            model = fit(few, key=KEY)
            judged = mixed[FEW - FEW_DECODES :][:3000]
            rows = list(error_rows(f"{name}, {FEW} points, draw {draw}", model, judged))
            errors.append(rows[0]["mape"])
            record.rows += rows
        worst = max(worst, sum(errors) / len(errors))
    record.summary["few_points_mape"] = worst


def replay(data: Path, record: Record) -> None:
    """The measured vLLM run, by the fit of its device's kernels with and without the engine."""
    run = measured(data)
    kernels = within_memory(rtx_steps(data), 600_000)
    for what, steps in (("kernels alone", kernels), ("with engine", with_engine(kernels))):
        found = errors(run, replayed(run, fit(steps, key=KEY)))
        record.rows += [
            {"what": f"replay, {what}", "metric": name, "error": abs(error)}
            for name, error in found.items()
        ]
    # Those of the last one, with the engine.
    record.summary |= {f"replay_{n}_error": abs(found[n]) for n in ("tpot", "makespan", "ttft")}


def speed(record: Record, quick: bool) -> None:
    """Microseconds of one question to a preset: the least of many repeats, load being noise."""
    model = preset("rtxpro6000-llama3.1-8b")
    decodes = Mix.of([(1, 100 * i) for i in range(1, 33)])
    mixed = decodes + Mix.one(300, 200)
    slacks_s = cycle([0.03 + 0.0041 * i for i in range(20)])  # 30 to 108 ms: no, short, long chunks
    questions: dict[str, Callable[[], object]] = {
        "step_us": lambda: model.step_s(mixed),
        "inverse_us": lambda: model.prefill_tokens_within(next(slacks_s), mixed, 500),
    }
    for name, ask in questions.items():
        # batches of a millisecond: longer ones never fall between two slices of somebody else's
        times = timeit.repeat(ask, number=200, repeat=100 if quick else 1000)
        record.summary[name] = min(times) / 200 * 1e6


def data_folder(options: argparse.Namespace) -> tuple[Path, str]:
    """The folder with the tables, and why it can't be used; empty where it can."""
    folder = options.data or Path(os.environ.get("HFX_DATA", "../shared/data"))
    profiles = folder / "profiles"
    return profiles, "" if profiles.is_dir() else f"no tables in {profiles}: give --data DIR"


def main() -> None:
    """Measure, print, write."""
    options_parser = parser(__doc__ or "")
    options_parser.add_argument("--data", type=Path, metavar="DIR", help="folder with profiles/")
    options = options_parser.parse_args()
    record = Record("cost")
    data, missing = data_folder(options)
    for part in (held_out, products, few_points, replay):
        if missing:
            record.rows.append({"what": part.__name__, "skipped": missing})
            print(f"skipped {part.__name__}: {missing}")
        else:
            part(data, record)
    speed(record, options.quick)
    rows, summary = measure_live(quick=options.quick)
    record.rows += rows
    record.summary |= summary
    print_rows([row for row in record.rows if "mape" in row])
    print_rows([row for row in record.rows if "metric" in row])
    for name, value in record.summary.items():
        print(f"{name:<24}{value:>10.4f}")
    if options.json:
        record.write(options.json)


if __name__ == "__main__":
    main()
