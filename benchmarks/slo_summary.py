"""The summary of the multi-SLO benchmark from its rows; a figure without its rows is left out."""

from statistics import fmean
from typing import Any

from .slo_results import Results

LOADS = (0.8, 1.0, 1.3)
BASELINES = ("fcfs", "priority", "edf")
GOAL_OF_CLAIRVOYANT = 0.85
GOAL_OF_FCFS = 2.0


def summary(results: Results) -> dict[str, float]:
    """Means over seeds; shares and differences from 0 to 1, ratios ours over theirs."""
    found: dict[str, float] = {}
    for load in LOADS:
        best = [joint for name in BASELINES if (joint := _mean(results, name, load)) is not None]
        ours = _mean(results, "hfx", load)
        if ours is not None and best:
            found[f"joint_minus_best_{load}"] = ours - max(best)
    if rows := _loads(results, "hfx", 1.0):
        shares = [row["tiers"]["interactive"]["slo_attainment"] for row in rows]
        found["interactive_1.0"] = fmean(shares)
    found |= _overload(results) | _peer(results) | _long(results)
    if plan := results.find("plan"):
        found["plan_ms_256"] = plan["plan_ms_256"]
    return found


def _overload(results: Results) -> dict[str, float]:
    found = {}
    ours, fcfs = _loads(results, "hfx", 1.3), _loads(results, "fcfs", 1.3)
    if not (ours and fcfs):
        return found
    throughput = [fmean(row["output_tok_s"] for row in rows) for rows in (ours, fcfs)]
    found["throughput_vs_fcfs_1.3"] = throughput[0] / throughput[1]
    joint, theirs = (fmean(row["slo_attainment"] for row in rows) for rows in (ours, fcfs))
    if best := results.all("clairvoyant", load=1.3):
        limit = GOAL_OF_CLAIRVOYANT * fmean(row["joint"] for row in best)
        found["overload_vs_goal"] = joint / min(GOAL_OF_FCFS * theirs, limit)
    return found


def _peer(results: Results) -> dict[str, float]:
    """Our attainment over vLLM's; half a request stands in where it kept none."""
    theirs = _loads(results, "vllm-cpu", 1.0)
    seeds = {row["seed"] for row in theirs}
    ours = [row for row in _loads(results, "hfx", 1.0) if row["seed"] in seeds]
    if not (ours and theirs):
        return {}
    least = 0.5 / sum(row["requests"] for row in theirs)
    joint, their_joint = (fmean(row["slo_attainment"] for row in rows) for rows in (ours, theirs))
    return {"joint_vs_vllm_cpu_1.0": joint / max(their_joint, least)}


def _long(results: Results) -> dict[str, float]:
    names = {"hfx": "long_prompt_itl_ratio", "fcfs": "long_prompt_itl_ratio_fcfs"}
    rows = {name: results.find("long", policy=name) for name in names}
    return {names[name]: row["ratio"] for name, row in rows.items() if row}


def _loads(results: Results, policy: str, load: float) -> list[dict[str, Any]]:
    """The rows at the capacity that holds now; others are of an older search."""
    if not (capacity := results.find("capacity")):
        return []
    rows = results.all("load", policy=policy, load=load)
    return [row for row in rows if row["rate"] == rate_of(capacity, load)]


def _mean(results: Results, policy: str, load: float) -> float | None:
    rows = _loads(results, policy, load)
    return fmean(row["slo_attainment"] for row in rows) if rows else None


def rate_of(capacity: dict[str, Any], load: float) -> float:
    """Requests per second at a load."""
    return float(round(load * capacity["rate"], 4))
