"""The command line of `python -m hfx.calibrate`: measure, fit, report, save; or show a profile.

Exit codes: 0 done, 2 for what the user can mend, 130 interrupted. Imports stay light.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from hfx.config import (
    CacheConfig,
    CostConfig,
    EngineConfig,
    ModelConfig,
    SchedulerConfig,
)
from hfx.cost import named
from hfx.cost.presets import names

from .tables import price_list, quality_table

PICTURES = (".svg", ".png")
_EXAMPLES = f"""\
examples:
  python -m hfx.calibrate                               the model that comes with hfx
  python -m hfx.calibrate --model ./Qwen3-0.6B --report qwen.svg
  python -m hfx.calibrate --budget-s 20 --json here.json
  python -m hfx.calibrate --show here.json              what a token costs, from a profile
  python -m hfx.calibrate --show a100-llama3-8b         ... or from a preset

presets: {", ".join(names())}

Measures real steps - decodes alone, prompt chunks, and both together - through the model and its
sampler, fits a cost model to them, and saves it under HOME/profiles. The server finds it there
(--cost-profile auto) for the same device, threads, model, dtype and version of hfx. Give the
server's own limits (--max-num-seqs, --max-num-batched-tokens) so that the steps it will run are
measured, and let nothing else run meanwhile.
"""


def parser() -> argparse.ArgumentParser:
    """Every option."""
    made = argparse.ArgumentParser(
        prog="python -m hfx.calibrate",
        description="Measure how long a model's steps take here, and save what a token costs.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    scheduler, cost = SchedulerConfig(), CostConfig()
    what = made.add_argument_group("what to measure")
    what.add_argument("--model", help="Hugging Face folder, GGUF file or Hub id; default: bundled")
    what.add_argument(
        "--device",
        default="auto",
        choices=("auto", "cpu", "cuda", "npu"),
        help="auto takes the accelerator that is there and works, else the CPU",
    )
    what.add_argument(
        "--dtype",
        default="auto",
        choices=("auto", "bfloat16", "float32"),
        help="type of weights and activations; auto is bfloat16",
    )
    what.add_argument("--threads", type=int, metavar="N", help="CPU threads; default: all cores")
    what.add_argument(
        "--tensor-parallel-size",
        type=int,
        metavar="N",
        default=1,
        help="processes that compute the model together; default %(default)s",
    )
    what.add_argument("--kernel-backend", metavar="NAME", help="kernels; default: the fastest")
    what.add_argument("--max-model-len", type=int, metavar="N", help="longest sequence, in tokens")
    what.add_argument(
        "--max-num-seqs",
        type=int,
        metavar="N",
        default=scheduler.max_num_seqs,
        help="most requests that run at the same time; default %(default)s",
    )
    what.add_argument(
        "--max-num-batched-tokens",
        type=int,
        metavar="N",
        default=scheduler.max_num_batched_tokens,
        help="most tokens in a step; default %(default)s",
    )
    what.add_argument(
        "--budget-s",
        type=float,
        metavar="S",
        default=cost.calibration_s,
        help="seconds for everything; measuring gets half of them at least; default %(default)g",
    )
    out = made.add_argument_group("what to do with it")
    out.add_argument("--json", type=Path, metavar="FILE", help="save the profile here too")
    out.add_argument("--report", type=Path, metavar="FILE", help="draw predicted against measured")
    out.add_argument("--show", metavar="PROFILE", help="measure nothing: print a profile's prices")
    out.add_argument(
        "--home",
        metavar="DIR",
        default=os.environ.get("HFX_HOME", cost.home),
        help="where profiles are kept [HFX_HOME]; default %(default)s",
    )
    return made


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    options = parser().parse_args(arguments)
    try:
        if options.show is not None:
            show(options.show)
        else:
            _measure(options)
    except (ValueError, OSError, ImportError, MemoryError, RuntimeError) as error:
        print(f"hfx.calibrate: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("hfx.calibrate: interrupted, nothing saved", file=sys.stderr)
        return 130
    return 0


def show(name: str) -> None:
    """Print what a profile says of itself, and its prices.

    Raises:
        ValueError: it is neither a preset nor a sound profile.
    """
    model = named(name)
    key = model.key
    print(f"{key.model} on {key.device}, {key.dtype}, tensor parallel {key.tensor_parallel}")
    print(f"{model.source}\n")
    print(f"{quality_table(model)}\n")
    print(price_list(model))


def _measure(options: argparse.Namespace) -> None:
    if not 0 < options.budget_s <= 3600:
        raise ValueError(f"--budget-s is {options.budget_s:g}: give from 1 to 3600 seconds")
    config = engine_config(options)
    if options.report is not None:
        _check_picture(options.report)
    for path in (options.json, options.report):
        if path is not None and not path.parent.is_dir():
            raise ValueError(f"{path}: there is no folder {path.parent}; create it first")
    from hfx.engine.threads import let_idle_threads_sleep

    let_idle_threads_sleep()
    from .session import measure_and_save  # here: it imports torch, for which --help must not wait

    measure_and_save(config, options.json, options.report)


def engine_config(options: argparse.Namespace) -> EngineConfig:
    """The engine to measure.

    Raises:
        ValueError: a setting is impossible.
    """
    return EngineConfig(
        model=ModelConfig(
            model=options.model, dtype=options.dtype, max_model_len=options.max_model_len
        ),
        cache=CacheConfig(),
        scheduler=SchedulerConfig(
            max_num_seqs=options.max_num_seqs,
            max_num_batched_tokens=options.max_num_batched_tokens,
        ),
        cost=CostConfig(calibration_s=options.budget_s, home=options.home),
        device=options.device,
        kernel_backend=options.kernel_backend,
        threads=options.threads,
        tensor_parallel_size=options.tensor_parallel_size,
    )


def _check_picture(path: Path) -> None:
    """Before a minute is spent: whether the picture can be drawn."""
    if path.suffix not in PICTURES:
        raise ValueError(f"--report {path}: the name must end in {' or '.join(PICTURES)}")
    from importlib.util import find_spec

    if find_spec("matplotlib") is None:
        raise ValueError("--report needs matplotlib: pip install 'hfx[plot]'")
