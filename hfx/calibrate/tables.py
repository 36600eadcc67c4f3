"""A cost model as tables that a person reads: how good it is, and what a token costs."""

from __future__ import annotations

from collections.abc import Sequence

from hfx.cost import CostModel, Mix, StepCost

CONTEXTS = (128, 1024, 4096, 16384)
LOADS = (0, 1, 4, 16, 64)  # sequences that decode already, each at LOAD_CONTEXT tokens
LOAD_CONTEXT = 512


def quality_table(model: StepCost) -> str:
    """Errors of the model on steps that were left out of its fit, by regime."""
    if not model.report:
        return "never compared with measured steps"
    rows: list[Sequence[str]] = [("steps", "shapes", "MAPE", "p50", "p90", "coverage")]
    for name, fit in model.report.items():
        errors = (f"{value:.1%}" for value in (fit.mape, fit.p50, fit.p90, fit.coverage))
        rows.append((name, str(fit.steps), *errors))
    return aligned(rows)


def price_list(model: CostModel) -> str:
    """Microseconds of one more prompt or output token at several contexts and loads."""
    head = [f"{load} decoding" if load else "idle" for load in LOADS]
    rows: list[Sequence[str]] = [("one more token, in us", "at context", *head)]
    for kind, word in (("prefill", "prompt"), ("decode", "output")):
        for context in CONTEXTS:
            prices = (_price(model, kind, context, load) for load in LOADS)
            rows.append((f"{word} token", str(context), *prices))
    note = (
        f"\nloads: sequences of {LOAD_CONTEXT} tokens that decode already; ~ is beyond what was "
        "measured\nprompt tokens are priced in chunks of 256; the first output token of an idle "
        "step carries the whole step"
    )
    return aligned(rows) + note


def _price(model: CostModel, kind: str, context: int, load: int) -> str:
    mix = Mix.of([(1, LOAD_CONTEXT - 1)] * load)
    if kind == "prefill":
        seconds = model.seconds_per_token("prefill", context, mix)
        outside = model.step_s(mix + Mix.one(256, context)).extrapolated
    else:
        seconds = model.seconds_per_token("decode", context, mix)
        outside = model.step_s(mix + Mix.one(1, context - 1)).extrapolated
    return f"{'~' if outside else ''}{seconds * 1e6:.1f}"


def aligned(rows: Sequence[Sequence[str]]) -> str:
    """Columns as wide as their widest cell; the first to the left, numbers to the right."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = (
        "  ".join(
            cell.rjust(width) if i else cell.ljust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    )
    return "\n".join(line.rstrip() for line in lines)
