"""Requests that the simulator serves per second of CPU time, everything but reading traces counted.

The Azure 2023 conversation trace at its own arrivals on two replicas, on which vidur and
splitwise-sim were measured elsewhere, on a machine of the same kind; and mix M1 at 28 requests/s on
four replicas, which is about what they can do, as in `benchmarks.policies`.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from time import process_time

from hfx.bench.record import Record
from hfx.cost import preset
from hfx.request import Objective
from hfx.simulate.job import Job
from hfx.simulate.setup import FleetSpec, PolicyName
from hfx.simulate.summary import summarize
from hfx.simulate.workload import MIXES, generated, replayed

from .record import finish, parser, print_rows

PROFILE = "rtxpro6000-llama3.1-8b"
POLICIES = ("hfx", "least_loaded+fcfs_2048")
PEERS = {"vidur": (418.0, 8_500.0), "splitwise-sim": (325.0, None)}  # requests and steps per second
CHAT = Objective(ttft_s=1.0, tpot_s=0.1, tier="chat")


@dataclass(frozen=True, slots=True)
class Traffic:
    """What arrives, for how long, and on how many replicas; `jobs` reads or makes it."""

    name: str
    replicas: int
    jobs: Callable[[], list[Job]]


def traffics(data: Path | None, quick: bool) -> Iterator[Traffic]:
    """The trace, where there is a folder with it, and the mix."""
    if data is not None:
        trace, seconds = data / "traces" / "azure2023_conv.csv.gz", 600.0 if quick else None
        yield Traffic("azure2023_conv", 2, lambda: replayed(trace, CHAT, seconds=seconds))
    seconds_M1 = 60.0 if quick else 300.0
    yield Traffic("M1 at 28/s", 4, lambda: generated(MIXES["M1"], 28.0, seconds_M1, seed=0))


def measured(traffic: Traffic, jobs: list[Job], policy: str, repeats: int) -> dict[str, object]:
    """A row: the median over runs of a fleet's whole life, its making and its figures included."""
    horizon_s = jobs[-1].request.arrival_s
    spec = FleetSpec(
        profiles=[preset(PROFILE)], replicas=traffic.replicas, policy=PolicyName.parse(policy)
    )
    times_s = []
    for _ in range(repeats):
        began_s = process_time()
        result = spec.fleet().run(jobs)
        figures = summarize(result, horizon_s)
        times_s.append(process_time() - began_s)
    cpu_s = median(times_s)
    return {
        "traffic": traffic.name,
        "replicas": traffic.replicas,
        "policy": policy,
        "requests": len(jobs),
        "cpu_s": cpu_s,
        "requests_per_cpu_s": len(jobs) / cpu_s,
        "steps_per_cpu_s": result.steps / cpu_s,
        "plans_per_request": result.plans / len(jobs),
        "joint": figures["joint"],
    }


def data_folder(options: argparse.Namespace) -> Path | None:
    """The folder with the traces, if there is one."""
    folder = options.data or Path(os.environ.get("HFX_DATA", "../shared/data"))
    return folder if (folder / "traces").is_dir() else None


def main() -> None:
    """Measure, print, write."""
    options_parser = parser(__doc__ or "")
    options_parser.add_argument("--data", type=Path, metavar="DIR", help="folder with traces/")
    options = options_parser.parse_args()
    record = Record("simulate")
    data = data_folder(options)
    if data is None:
        print("skipped the trace: no traces/ in the data folder, give --data DIR")
    for traffic in traffics(data, options.quick):
        jobs = traffic.jobs()
        for policy in POLICIES:
            record.rows.append(measured(traffic, jobs, policy, 1 if options.quick else 5))
    print_rows(record.rows)
    for name, (requests, steps) in PEERS.items():
        of = "" if steps is None else f" and {steps:,.0f} steps"
        print(
            f"{name}: {requests:,.0f} requests{of} per CPU second on that trace, not measured here"
        )
        record.rows.append(
            {"traffic": "azure2023_conv", "policy": name, "requests_per_cpu_s": requests}
            | {"steps_per_cpu_s": steps, "measured": "elsewhere"}
        )
    record.summary = summary(record.rows)
    finish(record, options)


def summary(rows: list[dict[str, object]]) -> dict[str, float]:
    """Requests per CPU second by traffic and policy; `requests_per_cpu_s` is ours on the trace."""
    own = [row for row in rows if "cpu_s" in row]
    out = {}
    for row in own:
        traffic = str(row["traffic"]).split()[0].removeprefix("azure2023_").lower()
        policy = str(row["policy"]).partition("+")[2] or str(row["policy"])
        name = f"requests_per_cpu_s_{traffic}_{policy}"
        out["requests_per_cpu_s" if name.endswith("_conv_hfx") else name] = float(
            str(row["requests_per_cpu_s"])
        )
    return out


if __name__ == "__main__":
    main()
