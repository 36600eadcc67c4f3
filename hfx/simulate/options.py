"""The command line of `python -m hfx.simulate`, and what is asked of it."""

from __future__ import annotations

import argparse
import textwrap
from collections.abc import Iterable
from pathlib import Path

from hfx.cost import presets
from hfx.scaler import SCALERS
from hfx.scheduler.dispatch_names import DISPATCHERS
from hfx.scheduler.policies import POLICIES

from .arrivals import KINDS
from .values import at_least_0, count, failure, names, positive, rates, slow, whole
from .workload import MIXES

FROM_ENVIRONMENT = Path("$HFX_DATA")  # what --data without a folder gives

DESCRIPTION = """\
Serves made-up or recorded traffic on a fleet that does not exist, with the schedulers of the real
server and the speed that a cost profile says, and reports which promises were kept at what cost.
A minute of traffic on a few replicas takes about a second."""

EPILOG = """\
policies:
  hfx                     the project's own dispatcher and step scheduler
  hfx_reconstruction      our stand-in for the published system, whole
  DISPATCH+STEP_CHUNK     a dispatcher, a step policy, and the most tokens of a step:
                          least_loaded+fcfs_2048, round_robin+edf_512, hfx+fcfs_1024
{dispatchers}
{steps}

workloads (of an 8B model; targets are time to first token, time per token):
  agent 0.3 s 30 ms, code 0.5 s 50 ms, chat 1 s 100 ms, summ 5 s 150 ms, batch 600 s in all
  M1  10 % agent, 30 % code, 40 % chat, 20 % summ
  M2  20 % agent, 50 % code, 20 % chat, 10 % summ
  M3  10 % agent, 10 % code, 30 % chat, 40 % summ with long prompts, 10 % batch
  Lengths have the statistics of published traces (Azure 2023, arXiv, Mooncake, ShareGPT), or are
  their own rows with --data.

profiles that ship with it (others are made by python -m hfx.calibrate):
{profiles}

examples:
  python -m hfx.simulate --workload M1 --rate 28 --replicas 4 --policy hfx
  python -m hfx.simulate --rate 20,24,28,32 --replicas 4 --policy hfx \\
      --policy least_loaded+fcfs_2048 --seeds 3 --json sweep.json --report report/
  python -m hfx.simulate --trace day.csv.gz --ttft 1 --tpot 0.1 --replicas 2
  python -m hfx.simulate --rate 40 --replicas 4 --profile h100-llama3.1-8b \\
      --profile a100-llama3-8b --fail 60:0:30 --slow 1:1.5

A sweep that was stopped goes on where it was when the same command is given again: finished runs
are kept in REPORT/runs.jsonl, or in FILE.runs.jsonl beside --json FILE."""


def parser() -> argparse.ArgumentParser:
    """Every option of the command."""
    out = argparse.ArgumentParser(
        prog="python -m hfx.simulate",
        usage="%(prog)s --rate R[,R...] [--workload M1 | --trace FILE] [--replicas N] "
        "[--profile NAME] [--policy NAME[,NAME...]] [--json FILE] [--report DIR] [options]",
        description=DESCRIPTION,
        epilog=EPILOG.format(
            dispatchers=_listed("  dispatchers   ", DISPATCHERS),
            steps=_listed("  step policies ", POLICIES),
            profiles=_listed("  ", presets.names()),
        ),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    traffic = out.add_argument_group("traffic")
    _traffic(traffic)
    _arrivals(traffic)
    _targets(traffic)
    _fleet(out.add_argument_group("fleet"))
    _roles(out.add_argument_group("roles and links"))
    _elastic(out.add_argument_group("elastic fleets"))
    _belief(out.add_argument_group("what policies believe"))
    _report(out.add_argument_group("report"))
    return out


def _listed(title: str, words: Iterable[str]) -> str:
    indent = " " * len(title)
    return textwrap.fill(", ".join(words), 100, initial_indent=title, subsequent_indent=indent)


def _report(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--json", type=Path, metavar="FILE", help="write every run's figures")
    group.add_argument(
        "--report",
        type=Path,
        metavar="DIR",
        help="write a page to show to others (index.html) and its figures as PNG and SVG",
    )
    group.add_argument(
        "--limits",
        action=argparse.BooleanOptionalAction,
        help="find out what no policy can beat at each rate, too: requests feasible alone, a fluid "
        "limit, and our own policy when it knows the future (with --report; takes as long as five "
        "runs)",
    )
    group.add_argument(
        "--plot", type=Path, metavar="FILE", help="draw kept promises against rate (PNG or SVG)"
    )
    group.add_argument(
        "--jobs", type=count, metavar="N", help="processes that share the runs (every core)"
    )
    group.add_argument(
        "--fresh", action="store_true", help="keep no finished runs and use none from before"
    )
    group.add_argument("--quiet", action="store_true", help="no progress bar")


def _traffic(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--workload", default="M1", choices=sorted(MIXES), help="a mix of classes (M1)"
    )
    group.add_argument(
        "--trace",
        type=Path,
        metavar="FILE",
        help="replay this instead: CSV with [arrival_s,]input_tokens,output_tokens[,hash_ids], or "
        "as published by Azure (2023, 2024), BurstGPT, Mooncake, ServeGen, Vidur or splitwise-sim; "
        "plain or .gz; all requests get --ttft and --tpot",
    )
    group.add_argument(
        "--jitter",
        type=at_least_0,
        metavar="S",
        help="move a trace's arrivals by less than this (as much as its clock was rounded)",
    )
    group.add_argument(
        "--data",
        type=Path,
        nargs="?",
        const=FROM_ENVIRONMENT,
        metavar="DIR",
        help="draw a workload's lengths from the rows of published traces in this folder, not from "
        "their statistics; without DIR the folder that HFX_DATA names",
    )


def _arrivals(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--rate",
        type=rates,
        metavar="R[,R...]",
        help="arrivals per second over all classes, or several to sweep (a trace: its own)",
    )
    group.add_argument(
        "--seconds",
        type=positive,
        metavar="S",
        help="how long they arrive (300; a trace: all)",
    )
    group.add_argument("--seeds", type=count, default=1, metavar="N", help="runs, seeds 0 to N-1")
    group.add_argument("--seed", type=whole, default=0, metavar="N", help="the first seed (0)")
    group.add_argument(
        "--arrivals",
        default="poisson",
        choices=KINDS,
        help="how they are spread: gamma comes in bursts of --cv, onoff in spells as Azure's code "
        "trace, diurnal as a published day (poisson)",
    )
    group.add_argument(
        "--clock", type=Path, metavar="FILE", help="arrive as in this trace instead, at --rate"
    )
    group.add_argument(
        "--day-seconds",
        type=positive,
        default=3600.0,
        metavar="S",
        help="how long the day of diurnal takes (3600)",
    )
    group.add_argument(
        "--cv", type=positive, default=2.5, metavar="X", help="of the gaps of gamma (2.5)"
    )


def _targets(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--slo-scale",
        type=positive,
        default=1.0,
        metavar="X",
        help="multiplies every target (1)",
    )
    group.add_argument("--ttft", type=positive, default=1.0, metavar="S", help="of a trace (1)")
    group.add_argument("--tpot", type=positive, default=0.1, metavar="S", help="of a trace (0.1)")


def _fleet(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--replicas", type=count, default=1, metavar="N", help="(1)")
    group.add_argument(
        "--profile",
        action="append",
        metavar="NAME",
        help="a preset or a file from hfx.calibrate; several are dealt out to replicas in turn "
        "(rtxpro6000-llama3.1-8b)",
    )
    group.add_argument(
        "--policy",
        action="extend",
        type=names,
        metavar="NAME[,NAME...]",
        help="see below; several are compared (hfx)",
    )
    group.add_argument(
        "--kv-tokens",
        type=count,
        default=500_000,
        metavar="N",
        help="a replica's cache (500000)",
    )
    group.add_argument(
        "--slow",
        type=slow,
        action="append",
        default=[],
        metavar="ID:X",
        help="that replica takes X times as long",
    )
    group.add_argument(
        "--fail",
        type=failure,
        action="append",
        default=[],
        metavar="AT:ID[:BACK]",
        help="that replica dies after AT seconds, and is replaced BACK seconds later",
    )


def _roles(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--prefill-replicas",
        type=whole,
        default=0,
        metavar="N",
        help="so many serve prompts alone and the others decode, for dispatchers that know roles "
        "(0: all do both)",
    )
    group.add_argument(
        "--link-gbps",
        type=positive,
        default=200.0,
        metavar="X",
        help="gigabits per second that a replica sends, and receives: keys and values that move, "
        "weights (200, which is 25 GB/s)",
    )
    group.add_argument(
        "--flip-seconds",
        type=at_least_0,
        default=0.0,
        metavar="S",
        help="how long a replica pauses when it changes its role (0)",
    )


def _elastic(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--scaler",
        metavar="NAME",
        help=f"who adds and removes replicas, --replicas at the start: static:N, "
        f"{', '.join(SCALERS)} (nobody)",
    )
    group.add_argument(
        "--least", type=count, default=1, metavar="N", help="replicas that always stay (1)"
    )
    group.add_argument(
        "--most", type=count, metavar="N", help="replicas at a time (16, or --replicas)"
    )
    group.add_argument(
        "--cold-start",
        type=at_least_0,
        default=10.0,
        metavar="S",
        help="how long a start takes, its weights read from a disk (10)",
    )
    group.add_argument(
        "--weights-from",
        choices=("disk", "replicas"),
        default="disk",
        help="replicas: from one that is ready over --link-gbps, where there is one (disk)",
    )
    group.add_argument(
        "--weights-gb",
        type=positive,
        default=16.0,
        metavar="X",
        help="gigabytes of weights, four fifths of a cold start (16)",
    )


def _belief(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--host-ms",
        type=at_least_0,
        default=0.0,
        metavar="MS",
        help="added to every step (0)",
    )
    group.add_argument(
        "--noise",
        type=at_least_0,
        default=0.0,
        metavar="X",
        help="random errors of step times, 1 is as large as the profile reports (0)",
    )
    group.add_argument(
        "--cost-error",
        type=positive,
        default=1.0,
        metavar="X",
        help="policies start out believing X times the true prices (1)",
    )
    group.add_argument(
        "--hints",
        type=positive,
        metavar="X",
        help="tell policies X times each output's true length (nothing; 1 is clairvoyant)",
    )
