"""Figures of the summary that other benchmarks measure: speed, fidelity, time of a dispatch.

Each is run as its own command once the machine is free. One that is not there, or that fails, is
told of and left out of the summary.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path

from hfx.bench.record import ROOT

MOST_S = 900.0  # of one command
SHORT = frozenset({"benchmarks.simulate", "benchmarks.dispatch"})  # --quick in the quick suite
COMMANDS: Mapping[str, tuple[str, ...]] = {
    "benchmarks.simulate": ("requests_per_cpu_s",),
    "benchmarks.dispatch": ("dispatch_p99_ms_64",),
    "benchmarks.fidelity": (
        "replay_tpot_error",
        "replay_makespan_error",
        "replay_ttft_error",
        "emulated_minus_simulated",
    ),
}


def elsewhere(
    data: str, *, quick: bool = True, commands: Mapping[str, tuple[str, ...]] = COMMANDS
) -> dict[str, float]:
    """By the names that the summary gives them; `data` is the folder of traces and profiles."""
    found: dict[str, float] = {}
    for module, names in commands.items():
        if find_spec(module) is None:
            print(f"{module} is not there: no {', '.join(names)}")
            continue
        print(f"{module}: {', '.join(names)}", flush=True)
        summary = _summary(module, data, ["--quick"] if quick and module in SHORT else [])
        found |= {name: summary[name] for name in names if name in summary}
    return found


def _summary(module: str, data: str, more: list[str]) -> dict[str, float]:
    environment = {**os.environ, "HFX_DATA": data} if data else dict(os.environ)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "out.json"
        command = [sys.executable, "-m", module, "--json", str(path), *more]
        try:
            done = subprocess.run(
                command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=MOST_S
            )
        except subprocess.TimeoutExpired:
            print(f"{module} took more than {MOST_S:g} s: left out")
            return {}
        if done.returncode or not path.exists():
            print(f"{module} failed and is left out:\n{done.stderr[-2000:]}")
            return {}
        summary: dict[str, float] = json.loads(path.read_text())["summary"]
        return summary
