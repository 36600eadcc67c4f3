"""How well an engine predicts its own steps while random requests come and go.

Calibrates the bundled model, then drives its engine in this process with arrivals at random:
prompts and answers of random lengths, a third of the prompts starting alike. Every step is
predicted before it runs. MAPE is the mean of |predicted / actual - 1| over all steps, coverage the
share of steps within their upper bound, of which 95 % are wanted. Times are seconds.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from hfx.bench.record import Record
from hfx.config import CostConfig, EngineConfig
from hfx.cost import Mix, StepCost
from hfx.engine import StepRecord
from hfx.engine.delta import Delta
from hfx.engine.threads import let_idle_threads_sleep
from hfx.request import Request, Sampling

from . import record as frame

if TYPE_CHECKING:
    from hfx.engine import Engine

CALIBRATION_S = 50.0
LOAD_S = 80.0
WANTED = 0.95
UTILISATIONS = (0.3, 0.9, 0.6, 1.1)  # offered load over what the model can do, phase by phase
PROMPT_TOKENS = (16, 1024)  # log-uniform
OUTPUT_TOKENS = (8, 128)
SHARED_TOKENS = 256
TYPICAL = Mix.of([(1, 300)] * 8)  # a step that a typical token shares


@dataclass(frozen=True, slots=True)
class Step:
    """One step: its regime, what was said of it, what it took."""

    regime: str
    mean_s: float
    upper_s: float
    actual_s: float

    @property
    def error(self) -> float:
        """Of the mean, as a fraction of the actual time."""
        return self.mean_s / self.actual_s - 1

    @property
    def is_covered(self) -> bool:
        return self.actual_s <= self.upper_s


class Watch:
    """Collects the steps; a `StepObserver`."""

    def __init__(self) -> None:
        self.steps: list[Step] = []

    def on_step(self, record: StepRecord) -> None:
        assert record.predicted is not None
        regime = "mixed" if record.mix.prefill_tokens else "decode"
        mean_s, upper_s, _ = record.predicted
        self.steps.append(Step(regime, mean_s, upper_s, record.duration_s))

    def on_finish(self, delta: Delta) -> None:
        """Ends are not of interest."""


def measure_live(
    *, quick: bool = False, profile: str = "calibrate"
) -> tuple[list[dict[str, object]], dict[str, float]]:
    """Rows by regime, and `live_mape` and `live_coverage_error`. Takes two minutes and more."""
    let_idle_threads_sleep()
    from hfx.engine import build_engine

    calibration_s, load_s = (15.0, 20.0) if quick else (CALIBRATION_S, LOAD_S)
    with tempfile.TemporaryDirectory() as home:
        cost = CostConfig(cost_profile=profile, calibration_s=calibration_s, home=home)
        engine, model = build_engine(EngineConfig(cost=cost))
    assert engine.cost is not None
    print(f"cost profile: {engine.cost}")
    watch = Watch()
    engine.add_observer(watch)
    drive(engine, requests(engine.cost.model, model.spec.vocabulary, load_s), load_s)
    summary = {
        "live_mape": float(np.mean([abs(step.error) for step in watch.steps])),
        "live_coverage_error": abs(coverage(watch.steps) - WANTED),
    }
    return rows(watch.steps), summary


def requests(model: StepCost, vocabulary: int, seconds: float) -> list[Request]:
    """Requests by arrival, over so many seconds, at rates that the model's prices suggest."""
    random = np.random.default_rng(0)
    shared = random.integers(0, vocabulary, SHARED_TOKENS)
    made: list[Request] = []
    now_s = 0.0
    while True:
        utilisation = UTILISATIONS[min(int(4 * now_s / seconds), 3)]
        now_s += random.exponential(_request_s(model) / utilisation)
        if now_s >= seconds:
            return made
        prompt = random.integers(0, vocabulary, _between(random, PROMPT_TOKENS))
        if random.random() < 1 / 3:
            prompt = np.concatenate([shared, prompt])
        output = _between(random, OUTPUT_TOKENS)
        temperature = float(random.choice((0.0, 0.7)))
        made.append(
            Request(
                id=f"live-{len(made)}",
                prompt_token_ids=tuple(prompt.tolist()),
                sampling=Sampling(max_tokens=output, ignore_eos=True, temperature=temperature),
                arrival_s=now_s,
            )
        )


def drive(engine: Engine, waiting: Sequence[Request], seconds: float) -> None:
    """Step the engine for so long, adding each request when its time has come."""
    todo = list(reversed(waiting))
    begun_s = time.perf_counter()
    while (now_s := time.perf_counter() - begun_s) < seconds:
        while todo and todo[-1].arrival_s <= now_s:
            engine.add(todo.pop())
        if engine.has_work:
            engine.step()
        else:
            time.sleep(max(0.0, (todo[-1].arrival_s if todo else seconds) - now_s))


def rows(steps: Sequence[Step]) -> list[dict[str, object]]:
    """Errors and coverage by regime, and for the first and the second half of the run."""
    half = len(steps) // 2
    parts = [
        *((name, [s for s in steps if s.regime == name]) for name in ("decode", "mixed")),
        ("first half", steps[:half]),
        ("second half", steps[half:]),
        ("all", steps),
    ]
    return [_row(name, part) for name, part in parts if part]


def coverage(steps: Sequence[Step]) -> float:
    """Share of the steps within their bound."""
    return float(np.mean([step.is_covered for step in steps]))


def _row(name: str, steps: Sequence[Step]) -> dict[str, object]:
    errors = np.abs([step.error for step in steps])
    return {
        "what": "live",
        "regime": name,
        "steps": len(steps),
        "mape": float(errors.mean()),
        "p50": float(np.quantile(errors, 0.5)),
        "p90": float(np.quantile(errors, 0.9)),
        "coverage": coverage(steps),
        "bias": float(np.mean([step.error for step in steps])),
        "mean_ms": 1e3 * float(np.mean([step.actual_s for step in steps])),
    }


def _request_s(model: StepCost) -> float:
    """What a mean request costs the engine: its prompt, and its share of the decodes' steps."""
    prompt = _log_mean(PROMPT_TOKENS) + SHARED_TOKENS / 3
    output_s = model.step_s(TYPICAL).mean_s / TYPICAL.decodes
    prompt_s = model.seconds_per_token("prefill", 0, TYPICAL)
    return prompt * prompt_s + _log_mean(OUTPUT_TOKENS) * output_s


def _between(random: np.random.Generator, bounds: tuple[int, int]) -> int:
    low, high = np.log(bounds)
    return round(float(np.exp(random.uniform(low, high))))


def _log_mean(bounds: tuple[int, int]) -> float:
    """The mean of numbers that are log-uniform between two."""
    low, high = bounds
    return float((high - low) / np.log(high / low))


def main() -> int:
    """Run it alone."""
    parser = frame.parser(__doc__.splitlines()[0])
    parser.add_argument("--cost-profile", default="calibrate", help="default: %(default)s")
    options = parser.parse_args()
    record = Record("cost_live")
    print(f"load average {os.getloadavg()[0]:.2f}")
    record.rows, record.summary = measure_live(quick=options.quick, profile=options.cost_profile)
    frame.print_rows(record.rows)
    for name, value in record.summary.items():
        print(f"{name:<24}{value:>10.4f}")
    if options.json:
        record.write(options.json)
    return 0


if __name__ == "__main__":
    sys.exit(main())
