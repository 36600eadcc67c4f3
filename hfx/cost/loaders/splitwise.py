"""Splitwise's table: whole prompts and whole decode steps of a served model (ms)."""

from __future__ import annotations

from pathlib import Path

from hfx.request import Mix

from .compose import Step
from .table import number, rows

NAMES = ("prompt_size", "batch_size", "token_size", "prompt_time", "token_time")


def load(
    path: Path, *, model: str, tensor_parallel: int, hardware: str = "a100-80gb"
) -> list[Step]:
    """Prompt steps of equal prompts, and decode steps at the mean context of a run.

    Raises:
        ValueError: the table has no such model on that many devices.
    """
    columns = {name: (name,) for name in (*NAMES, "model", "hardware", "tensor_parallel")}
    found: list[Step] = []
    for row in rows(path, columns):
        if (row["model"], row["hardware"]) != (model, hardware):
            continue
        if number(row, "tensor_parallel") != tensor_parallel:
            continue
        prompt, batch, outputs, prompt_ms, token_ms = (number(row, name) for name in NAMES)
        context = int(prompt + outputs / 2)
        found.append((Mix.of([(int(prompt), 0)] * int(batch)), prompt_ms * 1e-3))
        found.append((Mix.of([(1, context)] * int(batch)), token_ms * 1e-3))
    if not found:
        raise ValueError(
            f"{path.name} has no {model!r} on {tensor_parallel} x {hardware}: look at its columns"
        )
    return found
