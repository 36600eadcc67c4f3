"""What was simulated, in words that a person who never saw the command understands."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from .output import Group
from .scenario import DEFAULT_SECONDS, Scenario
from .workload import MIXES

PROCESSES = {
    "poisson": "at random (a Poisson process)",
    "gamma": "in bursts (gaps with a coefficient of variation of {cv:g})",
    "onoff": "in spells, a quarter of the time (as code completion does in Azure's trace of 2023)",
    "diurnal": "as over a published day, squeezed into {day_s:g} s",
}


@dataclass(frozen=True, slots=True)
class Described:
    """A title, and paragraphs."""

    title: str
    traffic: str
    fleet: str
    classes: tuple[tuple[str, str, str, str], ...]  # name, share, TTFT, TPOT or deadline


def targets(scenario: Scenario) -> Mapping[str, tuple[float | None, float | None]]:
    """TTFT and TPOT that were promised to each class, scaled."""
    scale = scenario.slo_scale
    if scenario.trace is not None:
        return {"trace": (_times(scenario.ttft_s, scale), _times(scenario.tpot_s, scale))}
    return {
        class_.name: (
            _times(class_.objective.ttft_s, scale),
            _times(class_.objective.tpot_s, scale),
        )
        for class_, _ in MIXES[scenario.workload]
    }


def _times(value: float | None, scale: float) -> float | None:
    return None if value is None else value * scale


def described(scenario: Scenario, groups: Sequence[Group]) -> Described:
    """The words at the top of a report."""
    name = scenario.trace.name if scenario.trace is not None else scenario.workload
    profiles = " and ".join(scenario.profiles)
    count = f"{scenario.replicas}"
    if scenario.scaler is not None:
        count = f"{scenario.least} to {scenario.most}"
    plural = "" if count == "1" else "s"
    return Described(
        f"{name} on {count} replica{plural} of {profiles}",
        _traffic(scenario, groups),
        _fleet(scenario),
        tuple(_classes(scenario)),
    )


def _traffic(scenario: Scenario, groups: Sequence[Group]) -> str:
    loads = sorted({group.load_rps for group in groups})
    span = f"{loads[0]:.3g}" if len(loads) == 1 else f"{loads[0]:.3g} to {loads[-1]:.3g}"
    requests = groups[-1].figures["requests"]
    seeds = len(groups[0].runs)
    if scenario.trace is not None:
        words = f"The requests of {scenario.trace.name} arrive as they did when it was recorded"
        words += ", faster or slower" if groups[0].rate is not None else ""
    else:
        seconds = scenario.horizon_s or DEFAULT_SECONDS
        how = PROCESSES[scenario.arrivals].format(cv=scenario.cv, day_s=scenario.day_s)
        if scenario.clock is not None:
            how = f"on the clock of {scenario.clock.name}"
        words = f"For {seconds:g} s requests of workload {scenario.workload} arrive {how}"
        source = "statistics" if scenario.data is None else "rows"
        words += f"; their lengths come from the {source} of published traces"
    words += f". Load: {span} requests per second, up to {requests:,.0f} requests a run, "
    words += "one run" if seeds == 1 else f"{seeds} runs with different random seeds"
    words += " for each point."
    if scenario.slo_scale != 1:
        words += f" Every target is multiplied by {scenario.slo_scale:g}."
    return words


def _fleet(scenario: Scenario) -> str:
    profiles = ", ".join(scenario.profiles)
    words = (
        f"{scenario.replicas} replica{'' if scenario.replicas == 1 else 's'}, each as fast as the "
        f"measured cost profile {profiles} says and with a cache of {scenario.kv_tokens:,} tokens."
    )
    if len(scenario.profiles) > 1:
        words = words.replace("the measured cost profile", "one of the cost profiles", 1)
    for id, factor in scenario.slow:
        words += f" Replica {id} takes {factor:g} times as long."
    for failure in scenario.failures:
        words += f" Replica {failure.replica_id} dies after {failure.at_s:g} s."
    if scenario.prefill_replicas:
        words += f" {scenario.prefill_replicas} of them serve prompts alone, the others decode;"
        words += f" keys and values move over links of {scenario.link_gbps:g} Gbit/s."
    if scenario.scaler is not None:
        words += " That is how it begins: then the scaler "
        words += f"{scenario.scaler} keeps between {scenario.least} and {scenario.most}; a start "
        words += f"takes {scenario.cold_start_s:g} s."
    if scenario.cost_error != 1:
        words += f" Policies start out believing {scenario.cost_error:g} times the true prices."
    if scenario.hints is not None:
        words += f" Policies are told {scenario.hints:g} times each output's true length."
    if scenario.noise:
        words += f" Step times vary {scenario.noise:g} times as much as was measured."
    return words


def _classes(scenario: Scenario) -> Sequence[tuple[str, str, str, str]]:
    promised = targets(scenario)
    if scenario.trace is not None:
        ((name, (ttft_s, tpot_s)),) = promised.items()
        return [(name, "100%", _seconds(ttft_s), _milliseconds(tpot_s))]
    rows = []
    for class_, share in MIXES[scenario.workload]:
        ttft_s, tpot_s = promised[class_.name]
        deadline_s = _times(class_.objective.deadline_s, scenario.slo_scale)
        last = _milliseconds(tpot_s) if deadline_s is None else f"{deadline_s:g} s in all"
        rows.append((class_.name, f"{share:.0%}", _seconds(ttft_s), last))
    return rows


def _seconds(value: float | None) -> str:
    return "–" if value is None else f"{value:.3g} s"


def _milliseconds(value: float | None) -> str:
    return "–" if value is None else f"{value * 1e3:.3g} ms"
