"""Whether the policy keeps more promises than the field's, and how far it is from what is possible.

Simulated, on mixes M1 to M3 of `hfx.simulate.workload`: our dispatcher and step policy, the
strongest published baselines, the same algorithm told the future, and a fluid limit, at loads of
0.6 to 1.15 of the rate where least_loaded+fcfs_2048 keeps 90 %, on the same arrivals. Shares are
over all arrivals, none dropped as a warm-up; a fleet starts empty. Lengths are those of the traces
in --data (or HFX_DATA), else of published statistics that ship with the simulator.

With --json each run is kept beside it (.jsonl) as soon as it ends, and the same command goes on
where the last one stopped; runs of changed sources are run again.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from hfx.bench.record import ROOT, Record

from . import policies_measure, policies_table
from .policies_cases import versions
from .policies_elsewhere import elsewhere
from .policies_measure import Found
from .policies_plan import SUITES, Suite
from .policies_plot import draw
from .policies_pool import Pool
from .policies_store import Store
from .record import finish


def main(argv: Sequence[str] | None = None) -> int:
    """The command; returns its exit status."""
    out = _parser()
    options = out.parse_args(argv)
    try:
        _measure(options, _suite(options))
    except ValueError as error:
        out.error(str(error))
    return 0


def _parser() -> argparse.ArgumentParser:
    out = argparse.ArgumentParser(
        prog="python -m benchmarks.policies",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    out.add_argument(
        "--data",
        default=os.environ.get("HFX_DATA", ""),
        metavar="DIR",
        help="the folder of the published traces (HFX_DATA; published statistics without)",
    )
    out.add_argument("--suite", default="quick", choices=sorted(SUITES), help="(quick)")
    out.add_argument("--json", type=Path, metavar="FILE", help="write machine, points and summary")
    out.add_argument("--plot", type=Path, metavar="FILE", help="(beside --json, as PNG)")
    out.add_argument("--processes", type=int, default=2, metavar="N", help="(2)")
    out.add_argument("--redo", action="store_true", help="forget all runs that were kept")
    out.add_argument(
        "--any-version", action="store_true", help="take runs of changed sources too: a look"
    )
    out.add_argument("--only", action="append", metavar="MIX", help="groups of that mix alone")
    out.add_argument("--seeds", type=int, metavar="N", help="other than the suite's")
    out.add_argument("--requests", type=float, metavar="N", help="of a run at load 1: a look")
    out.add_argument("--alone", action="store_true", help="leave out what other benchmarks measure")
    out.add_argument("--quiet", action="store_true", help="no progress bar")
    return out


def _suite(options: argparse.Namespace) -> Suite:
    suite = SUITES[options.suite]
    if options.only:
        groups = tuple(group for group in suite.groups if group.mix in options.only)
        suite = replace(suite, groups=groups)
    if options.seeds:
        suite = replace(suite, seeds=options.seeds)
    if options.requests:
        suite = suite.sized(options.requests)
    return suite


def _measure(options: argparse.Namespace, suite: Suite) -> None:
    record = Record("policies")
    kept = options.json and options.json.with_suffix(".jsonl")
    store = Store(kept, versions(ROOT), any_version=options.any_version)
    if options.redo:
        store.drop()
    with Pool(store, options.processes, quiet=options.quiet) as pool:
        found = policies_measure.measure(pool, suite, options.data)
    points = [policies_table.plain(one) for one in found.outcomes]
    record.rows = [*({"part": "point", **one} for one in points), *policies_measure.plain(found)]
    others = {}
    if not options.alone:
        data = str(Path(options.data).resolve()) if options.data else ""
        others = elsewhere(data, quick=suite.name == "quick")
    record.summary = {**others, **found.summary}
    for line in report(found):
        print(line)
    path = options.plot or (options.json and options.json.with_suffix(".png"))
    if path:
        draw(path, found.outcomes)
    if options.json:
        settings = {"suite": suite.name, "seeds": list(range(suite.seeds)), "data": options.data}
        settings["lengths"] = "rows of the traces" if options.data else "published statistics"
        record.machine |= {"settings": settings, "sources": list(store.versions)}
    finish(record, options)


def report(found: Found) -> Iterator[str]:
    """What a person reads."""
    for group, rate in found.load_1.items():
        yield f"load 1 of {group}: {rate:g}/s"
    yield from policies_table.lines(found.outcomes)
    yield from policies_table.losses(found.outcomes)
    for scale, by_policy in found.rates.items():
        yield ""
        yield f"M1, N=4, SLO x{scale:g}: the highest rate with 90 % and with 99 % joint"
        for name in sorted(by_policy, key=lambda name: -(by_policy[name]["rate90"] or 0.0)):
            cells = (_rate(by_policy[name][key]) for key in ("rate90", "rate99"))
            yield f"  {name:28}" + "".join(f"{cell:>12}" for cell in cells)


def _rate(rate: float | None) -> str:
    return "none" if rate is None else f"{rate:.1f}/s"


if __name__ == "__main__":
    sys.exit(main())
