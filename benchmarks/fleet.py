"""Many replicas: promises kept beside the simulator's, what the parent costs, what deaths do.

`python -m benchmarks.fleet [--kill-s 300] [--json FILE]`. Replicas are real processes on emulated
devices behind the real server, traffic comes from another process. About eight minutes, on its own.
"""

from __future__ import annotations

import argparse
from typing import Any

from hfx.bench.record import Record

from .fleet_kills import kills
from .fleet_load import Load
from .fleet_serving import added_ttft, m1
from .fleet_snapshots import snapshots
from .record import finish, parser

SUMMARY = {
    "m1": ("attainment_minus_simulated",),
    "added_ttft": ("parent_ms_per_request", "added_ttft_p99_ms"),
    "kills": ("kills", "requests", "lost", "duplicated", "hung"),
    "snapshots": ("snapshot_core_fraction",),
}


def main() -> None:
    """Measure, print, write."""
    options_parser = parser(__doc__ or "")
    options_parser.add_argument("--kill-s", type=float, default=300.0, help="seconds of killing")
    options_parser.add_argument("--kill-every-s", type=float, default=10.0, help="between kills")
    options_parser.add_argument("--m1-s", type=float, default=90.0, help="seconds of M1")
    options_parser.add_argument(
        "--parts", nargs="+", default=list(SUMMARY), choices=list(SUMMARY), help="which to measure"
    )
    options = options_parser.parse_args()
    if options.quick:
        options.kill_s, options.m1_s = min(options.kill_s, 30.0), min(options.m1_s, 20.0)
    record = Record("fleet")
    load = Load()
    try:
        for part in options.parts:
            row = _measured(part, load, options)
            record.rows.append(row)
            record.summary |= {name: row[name] for name in SUMMARY[part]}
            print("\n".join(f"{name:<32}{_shown(value):>16}" for name, value in row.items()), "\n")
    finally:
        load.close()
    finish(record, options)


def _measured(part: str, load: Load, options: argparse.Namespace) -> dict[str, Any]:
    if part == "m1":
        return m1(load, options.m1_s)
    if part == "added_ttft":
        return added_ttft(load, 8.0)
    if part == "kills":
        return kills(load, options.kill_s, options.kill_every_s)
    return snapshots(10.0)


def _shown(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


if __name__ == "__main__":
    main()
