"""How true the simulator and the emulated device are: a measured vLLM run replayed, and the real
server on an emulated device beside the simulator.

`python -m benchmarks.fidelity [--data DIR] [--quick] [--json FILE]`. Two minutes, on its own.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from hfx.bench.record import Record

from . import fidelity_emulated
from .fidelity_replay import replay_errors
from .record import finish, parser, print_rows

COMPARED = ("tpot", "makespan", "ttft", "ttft_at_once")


def replay(data: Path, record: Record) -> None:
    """Errors of the replay with the run's own settings in the summary, of all variants as rows."""
    rows = replay_errors(data)
    record.rows += rows
    record.summary |= {f"replay_{name}_error": abs(float(rows[0][name])) for name in COMPARED}


def emulated(record: Record, *, seconds: float = fidelity_emulated.SECONDS) -> None:
    """The server on an emulated device against the simulator."""
    figures = fidelity_emulated.figures(fidelity_emulated.pair(seconds=seconds))
    record.rows.append({"emulated": fidelity_emulated.PROFILE, **figures})
    names = ("emulated_minus_simulated", "ttft_p50_ratio", "ttft_p50_ratio_at_server", "host_ms")
    record.summary |= {name: figures[name] for name in names}


def folder(options: argparse.Namespace) -> Path:
    """Where the measured profiles are."""
    return options.data or Path(os.environ.get("HFX_DATA", "../shared/data"))


def main() -> None:
    """Measure, print, write."""
    options_parser = parser(__doc__ or "")
    options_parser.add_argument("--data", type=Path, metavar="DIR", help="folder with profiles/")
    options = options_parser.parse_args()
    record = Record("fidelity")
    data = folder(options)
    if (data / "profiles").is_dir():
        replay(data, record)
    else:
        record.rows.append({"replay": "skipped", "why": f"no {data / 'profiles'}: give --data DIR"})
    emulated(record, seconds=20.0 if options.quick else fidelity_emulated.SECONDS)
    for kind in ("replay", "emulated"):
        print_rows([row for row in record.rows if kind in row])
        print()
    finish(record, options)


if __name__ == "__main__":
    main()
