"""One run of one workload on one server, and what its row says; the floor of an idle machine."""

import asyncio
import statistics
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import aiohttp
import numpy as np

from hfx.bench.attainment import Share, attainment, by_tier
from hfx.bench.client import Target
from hfx.bench.load import Run, run_load
from hfx.bench.metrics import client_lag, saturation
from hfx.bench.outcome import Outcome, output_tokens, tpot_s
from hfx.bench.progress import Progress
from hfx.bench.server import Unusable, models, served_pool
from hfx.bench.sweep import cannot_reach
from hfx.bench.workload import Prompt, TokenPool, trace_prompts
from hfx.traces import Row

from .process import ServerProcess
from .slo_workload import CLASSES, WARM_S, Floor, Workload

START_TIMEOUT_S = 240.0
WARM_REQUESTS = 3
FLOOR_REPEATS = 7


@dataclass(frozen=True, slots=True)
class Measured:
    """A run and the workload it was of."""

    prompts: Sequence[Prompt]
    run: Run
    is_cut: bool

    def row(self) -> dict[str, Any]:
        """Attainment by both rules and by tier, throughput, causes of misses, our own lag."""
        pairs = self.counted
        prompts = [prompt for prompt, _ in pairs]
        outcomes = [outcome for _, outcome in pairs]
        targets = [prompt.targets for prompt in prompts]
        tiers = by_tier(outcomes, targets, [prompt.tier for prompt in prompts], self.span_s)
        return {
            "requests": len(pairs),
            "cut": self.is_cut,
            **attainment(outcomes, targets, self.span_s),
            "output_tok_s": sum(map(output_tokens, self.run.outcomes)) / self.span_s,
            "seconds_taken": self.span_s,
            "tiers": tiers,
            "missed": missed(pairs),
            "errors": dict(Counter(o.error for o in outcomes if o.error).most_common(5)),
            **client_lag(outcomes, self.run.loop_lags_s),
            **saturation(outcomes),
        }

    @property
    def counted(self) -> list[tuple[Prompt, Outcome]]:
        """What was due after the warm-up."""
        return [
            (prompt, outcome)
            for prompt, outcome in zip(self.prompts, self.run.asked, strict=True)
            if outcome is not None and outcome.scheduled_s >= self.run.start_s + WARM_S
        ]

    @property
    def span_s(self) -> float:
        """From the first arrival to the last token."""
        outcomes = self.run.outcomes
        if not outcomes:
            return 0.0
        return max(o.end_s for o in outcomes) - min(o.scheduled_s for o in outcomes)

    @property
    def kept(self) -> Share:
        hits = [prompt.targets.are_kept(outcome) for prompt, outcome in self.counted]
        return Share(sum(hits), len(hits))


def missed(pairs: Sequence[tuple[Prompt, Outcome]]) -> dict[str, dict[str, int]]:
    """By tier and target, what the server gave as the cause of each miss."""
    causes: dict[str, Counter[str]] = {}
    for prompt, outcome in pairs:
        for name, is_met in prompt.targets.met(outcome).items():
            if not is_met:
                key = f"{prompt.tier} {name}"
                causes.setdefault(key, Counter())[_cause(outcome, name)] += 1
    return {key: dict(counter.most_common()) for key, counter in sorted(causes.items())}


def _cause(outcome: Outcome, name: str) -> str:
    if outcome.was_refused:
        return "refused"
    if not outcome.success:
        return "failed"
    promise = outcome.metrics.get("slo") or {}
    told = promise.get("targets", {}).get(f"{'deadline' if name == 'e2el' else name}_ms", {})
    cause = str(told.get("missed_because") or "not told")
    return f"{cause}, relegated" if promise.get("relegated") else cause


async def _model(session: aiohttp.ClientSession, server: ServerProcess) -> str:
    """The model that a server offers once it is ready; raises what it said where it has ended."""
    while True:
        server.check()
        try:
            return (await models(session, server.base_url, {}, 0.0)).ids[0]
        except Unusable:
            if time.perf_counter() > server.started_s + START_TIMEOUT_S:
                raise
        await asyncio.sleep(0.2)


async def ready(session: aiohttp.ClientSession, server: ServerProcess) -> tuple[Target, TokenPool]:
    """Wait for a server, take its own name for the model, and warm it."""
    found = Target(
        base_url=server.base_url,
        model=await _model(session, server),
        ignore_eos=True,
        extra_body={"temperature": 0},
    )
    pool = await served_pool(session, found)
    rng = np.random.default_rng()
    rows = [Row(None, kind.input_len, 8) for kind in CLASSES.values()] * WARM_REQUESTS
    await run_load(session, found, trace_prompts(rng, rows, pool, as_text=False), max_concurrency=2)
    return found, pool


async def run(
    session: aiohttp.ClientSession,
    target: Target,
    workload: Workload,
    policy: str,
    title: str,
    goal: float | None = None,
) -> Measured:
    """Send a workload; with a goal it is given up once that is out of reach."""
    prompts = workload.sent_to(policy)
    hopeless = asyncio.Event()
    hits: list[bool] = []
    counted = sum(at_s >= WARM_S for at_s in workload.arrivals_s)
    with Progress(prompts, title=title, is_shown=True) as progress:

        def done(i: int, outcome: Outcome) -> None:
            progress.done(i, outcome)
            if workload.arrivals_s[i] >= WARM_S:
                hits.append(prompts[i].targets.are_kept(outcome))
            if goal is not None and cannot_reach(Share(sum(hits), len(hits)), goal, counted):
                hopeless.set()

        measured = await run_load(
            session,
            target,
            prompts,
            arrivals_s=workload.arrivals_s,
            on_done=done,
            stop=hopeless,
        )
    return Measured(prompts, measured, hopeless.is_set())


async def floor(session: aiohttp.ClientSession, target: Target, pool: TokenPool) -> Floor:
    """Medians of single requests on an idle server, of each tier's mean lengths."""
    rng = np.random.default_rng(0)
    ttft_s, tpots_s = {}, []
    for name, kind in CLASSES.items():
        rows = [Row(None, kind.input_len, kind.output_len)] * FLOOR_REPEATS
        prompts = trace_prompts(rng, rows, pool, as_text=False)
        outcomes = (await run_load(session, target, prompts, max_concurrency=1)).outcomes
        if failed := next((o.error for o in outcomes if not o.success), ""):
            raise RuntimeError(f"a single request of tier {name} failed: {failed}")
        ttft_s[name] = statistics.median(outcome.ttft_s for outcome in outcomes)
        tpots_s.append(statistics.median(tpot_s(outcome) for outcome in outcomes))
    return Floor(ttft_s, statistics.median(tpots_s))


def floor_row(found: Floor) -> dict[str, Any]:
    """The floor and the targets that follow from it, for people."""
    targets = {name: found.targets(name).slo for name in CLASSES}
    classes = {name: asdict(kind) for name, kind in CLASSES.items()}
    return {
        "ttft_s": dict(found.ttft_s),
        "tpot_s": found.tpot_s,
        "targets_ms": targets,
        "tiers": classes,
    }
