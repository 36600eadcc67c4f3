"""How a result is shown and saved: the table for people, vLLM's JSON, the project's record."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from .outcome import Outcome, output_tokens, tpot_s
from .sweep import Found, Trial
from .workload import Prompt

WIDTH = 58
DETAILS = ("input_lens", "output_lens", "ttfts", "itls", "start_times", "generated_texts", "errors")
SHOWN_ERRORS = 5
LATE_MS = 20.0  # a client that is later than this adds to what it measures

_TITLES = {
    "ttft": "Time to first token",
    "tpot": "Time per output token after the first",
    "itl": "Inter-token latency",
    "e2el": "End-to-end latency",
}
_TOTALS = (
    ("completed", "Successful requests", "d"),
    ("failed", "Failed requests", "d"),
    ("duration", "Duration (s)", ".2f"),
    ("total_input_tokens", "Input tokens", "d"),
    ("total_output_tokens", "Output tokens", "d"),
    ("request_throughput", "Requests per second", ".2f"),
    ("request_goodput", "Goodput (requests per second)", ".2f"),
    ("output_throughput", "Output tokens per second", ".2f"),
    ("total_token_throughput", "Total tokens per second", ".2f"),
    ("max_output_tokens_per_s", "Output tokens in the best second", ".0f"),
    ("max_concurrent_requests", "Requests in the busiest second", "d"),
)


def table(result: Mapping[str, Any]) -> str:
    """The result as text, ready to print."""
    lines = [_centred(" hfx.bench ", "=")]
    for key, title, form in _TOTALS:
        if result.get(key) is not None:
            lines.append(_row(title, format(result[key], form)))
    if "slo_attainment" in result:
        lines += _attainment(result)
    for tier, figures in result.get("tiers", {}).items():
        lines += _tier(tier, figures)
    for name, title in _TITLES.items():
        if f"mean_{name}_ms" in result:
            lines += _latency(result, name, title)
    lines.append("=" * WIDTH)
    return "\n".join([*lines, *_remarks(result)])


def _row(title: str, value: str) -> str:
    return f"{title + ':':<40}{value:>{WIDTH - 40}}"


def _centred(text: str, fill: str) -> str:
    return f"{text:{fill}^{WIDTH}}"


def _attainment(result: Mapping[str, Any]) -> list[str]:
    low, high = result["slo_attainment_low"], result["slo_attainment_high"]
    lines = [_row("All targets kept", f"{result['slo_attainment']:.1%}")]
    lines.append(_row("  95% interval", f"{low:.1%} .. {high:.1%}"))
    lines.append(_row("  every token on time", f"{result['slo_attainment_cumulative']:.1%}"))
    for name, share in result["slo_attainment_by_metric"].items():
        lines.append(_row(f"  {name} kept", f"{share:.1%}"))
    if result["refused"]:
        lines.append(_row("  refused", f"{result['refused']} ({result['refusal_rate']:.1%})"))
    return lines


def _tier(name: str, figures: Mapping[str, Any]) -> list[str]:
    lines = [_centred(f" Tier {name}: {figures['requests']} requests ", "-")]
    lines += _attainment(figures)
    for metric in ("ttft", "tpot"):
        if f"p50_{metric}_ms" in figures:
            values = [f"{figures[f'p{p}_{metric}_ms']:.0f}" for p in (50, 90, 99)]
            lines.append(_row(f"  {metric} p50 / p90 / p99 (ms)", " / ".join(values)))
    return lines


def _latency(result: Mapping[str, Any], name: str, title: str) -> list[str]:
    lines = [_centred(f" {title} (ms) ", "-")]
    for key, value in result.items():
        if key.endswith(f"_{name}_ms"):
            lines.append(_row(key.removesuffix(f"_{name}_ms"), f"{value:.2f}"))
    return lines


def _remarks(result: Mapping[str, Any]) -> list[str]:
    lines = [f"Prompts were made of {result['prompt_source']}."]
    aimed, counted = result["aimed_input_tokens"], result["total_input_tokens"]
    if aimed != counted:
        lines.append(f"The server counted {counted} input tokens; {aimed} were aimed for.")
    if result.get("saturated"):
        lines.append(f"SATURATED: {result['saturation_reason']}; latencies grow with the run.")
    if (late_ms := result["client_send_lag_p99_ms"]) > LATE_MS:
        lines.append(f"This client was up to {late_ms:.0f} ms late in sending (p99).")
    if (late_ms := result["client_loop_lag_p99_ms"]) > LATE_MS:
        lines.append(f"This client looked up to {late_ms:.0f} ms late at its sockets (p99).")
    errors = Counter(error for error in result["errors"] if error)
    for error, count in errors.most_common(SHOWN_ERRORS):
        lines.append(f"failed {count} x: {error}")
    if len(errors) > SHOWN_ERRORS:
        lines.append(f"and {len(errors) - SHOWN_ERRORS} other kinds of error")
    return lines


def without_details(result: Mapping[str, Any]) -> dict[str, Any]:
    """What `--save-result` keeps: everything but the lists per request."""
    return {key: value for key, value in result.items() if key not in DETAILS}


def rows(outcomes: Sequence[Outcome], prompts: Sequence[Prompt]) -> list[dict[str, Any]]:
    """One row a request, times in milliseconds from the first start."""
    zero_s = min((outcome.start_s for outcome in outcomes), default=0.0)
    return [
        {
            "tier": prompt.tier,
            "success": outcome.success,
            "error": outcome.error,
            "status": outcome.status,
            "start_ms": (outcome.start_s - zero_s) * 1e3,
            "late_ms": (outcome.start_s - outcome.scheduled_s) * 1e3,
            "input_tokens": outcome.prompt_tokens,
            "output_tokens": output_tokens(outcome),
            "ttft_ms": outcome.ttft_s * 1e3,
            "tpot_ms": tpot_s(outcome) * 1e3,
            "e2el_ms": outcome.latency_s * 1e3,
            "longest_itl_ms": max(outcome.itls_s, default=0.0) * 1e3,
            "kept": prompt.targets.are_kept(outcome),
            "kept_by_every_token": prompt.targets.are_kept_by_every_token(outcome),
            "server": dict(outcome.metrics),
        }
        for outcome, prompt in zip(outcomes, prompts, strict=True)
    ]


def trial_line(trial: Trial, goal: float) -> str:
    """One trial of a search as a line."""
    low, high = trial.kept.interval
    verdict = "passes" if trial.passes(goal) else "fails"
    cut = ", given up early" if trial.is_cut else ""
    return (
        f"{trial.rate:8.3f}/s {verdict}: {trial.kept.value:.1%} of {trial.kept.total} kept "
        f"({low:.1%} .. {high:.1%}){cut}"
    )


def search(found: Found, goal: float) -> dict[str, Any]:
    """A search as JSON."""
    return {
        "goal": goal,
        "highest_rate": found.passed,
        "lowest_failed_rate": found.failed,
        "trials": [_trial(trial, goal) for trial in found.trials],
    }


def _trial(trial: Trial, goal: float) -> dict[str, Any]:
    low, high = trial.kept.interval
    return {
        "request_rate": trial.rate,
        "passes": trial.passes(goal),
        "requests": trial.kept.total,
        "runs": trial.runs,
        "given_up_early": trial.is_cut,
        "slo_attainment": trial.kept.value,
        "slo_attainment_low": low,
        "slo_attainment_high": high,
    }


def search_table(result: Mapping[str, Any]) -> str:
    """A search as text, ready to print."""
    lines = [_centred(" hfx.bench: highest rate ", "=")]
    lines.append(_row("Promises to keep", f"{result['goal']:.1%}"))
    lines.append(_row("Highest rate that keeps them (1/s)", f"{result['highest_rate']:.3f}"))
    lines.append(_row("Lowest rate that does not (1/s)", f"{result['lowest_failed_rate']:.3f}"))
    for trial in sorted(result["trials"], key=lambda trial: trial["request_rate"]):
        share = f"{trial['slo_attainment']:.1%} of {trial['requests']}"
        interval = f"{trial['slo_attainment_low']:.1%} .. {trial['slo_attainment_high']:.1%}"
        lines.append(_row(f"  {trial['request_rate']:.3f}/s, kept {share}", interval))
    return "\n".join([*lines, "=" * WIDTH])


def summary(result: Mapping[str, Any]) -> dict[str, float]:
    """The numbers of a result under their own names."""
    return {
        key: float(value)
        for key, value in result.items()
        if isinstance(value, int | float) and not isinstance(value, bool)
    }
