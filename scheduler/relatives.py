"""Three published schedulers that use prices, as baselines behind the same interface. Seconds.

Each is rebuilt from its paper, for one replica, on this project's cost model in place of its own
predictor; what a replica alone can't do (refuse for good, send elsewhere) is done last instead.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from math import inf

from hfx.cost import CostModel
from hfx.request import FinishReason, Mix, Plan, Request

from .fcfs import FirstComeFirstServed
from .fill import Fill
from .fixed import due_s, serve
from .lengths import Lengths
from .policy import Live, Snapshot


@dataclass(frozen=True, slots=True, kw_only=True)
class _Priced(FirstComeFirstServed):
    cost: CostModel

    def prompt_s(self, live: Live) -> float:
        """What the rest of a prompt takes, alone on the device."""
        return self.cost.step_s(Mix.one(live.wanted_tokens, live.cached_tokens)).mean_s

    def chunk_tokens(self, within_s: float, decodes: Mix, history_tokens: int) -> int:
        """The most prompt tokens of a step that ends in time, 1 at least, and within the limit."""
        left = self.max_step_tokens - decodes.decodes
        if within_s == inf:
            return max(1, left)
        fit = self.cost.prefill_tokens_within(max(within_s, 0.0), decodes, history_tokens)
        return max(1, min(fit, left))


@dataclass(frozen=True, slots=True, kw_only=True)
class QoServeLike(_Priced):
    """QoServe, first named Niyama (Goel et al., ASPLOS 2026, arXiv 2503.22562), sections 3.2-3.5.

    A step's prompt chunk is the largest whose predicted latency stays within the least slack of the
    decodes (dynamic chunking). Prompts go by due time + `alpha` x remaining prompt time, between
    EDF (0) and shortest first (hybrid prioritization); one that will miss its due time is relegated
    behind the others (eager relegation); prompts, never decodes, make way for more urgent ones
    (selective preemption).

    The paper has token n due at arrival + TTFT + (n - 1) TBT: an early first token is spent on
    longer steps, which loses promises where the mean time per token is judged, and a late one
    leaves decodes that are late for ever and stop all prompts. So here token n is due (n - 1) TBT
    after the first. On 4 replicas under M1 at 29/s that kept 97.3 % instead of 88.8 %, at 33.5/s
    90.1 % instead of 81.1 %; an `alpha` of 4 instead of 1 another 1.1 points there.
    """

    alpha: float = 4.0

    def plan(self, snapshot: Snapshot) -> Plan:
        """See `hfx.scheduler.StepPolicy.plan`."""
        now_s = snapshot.now_s
        decodes, prompts = parted(snapshot)
        slack_s = min((_next_due_s(live) - now_s for live in decodes), default=inf)

        def rank(live: Live) -> tuple[float, ...]:
            work_s = self.prompt_s(live)
            lost = not live.output_tokens and now_s + work_s > due_s(live)
            return lost, due_s(live) + self.alpha * work_s, live.arrival_s

        ranked = sorted(prompts, key=rank)
        mix = mix_of(decodes)
        history = ranked[0].cached_tokens if ranked else 0
        budget = len(decodes) + self.chunk_tokens(slack_s, mix, history)
        return drawn(snapshot, decodes, ranked, budget, self.max_running)


@dataclass(frozen=True, slots=True, kw_only=True)
class ScorpioLike(_Priced):
    """SCORPIO (Tang et al., arXiv 2505.23022), sections 4.2 and 4.3.

    TTFT guard: prompts by deadline, and one whose estimated TTFT (the prompt times of all before
    it) misses its target is set behind the others; the paper rejects it. TPOT guard: a decode of
    tight TPOT runs in every iteration, a looser one when its credits reach 1, of which each
    iteration gives it the ratio of the tightest TPOT to its own; a prompt starts only if the
    estimated TPOT of the batch, as large as its credits make it on average, stays within the
    tightest TPOT. It sets no chunk by promises: of 128 to 2048 tokens, 256 kept most on M1 and M2.
    """

    lengths: Lengths = field(default_factory=Lengths)
    _credit: dict[str, float] = field(default_factory=dict)

    def plan(self, snapshot: Snapshot) -> Plan:
        """See `hfx.scheduler.StepPolicy.plan`."""
        decodes, prompts = parted(snapshot)
        tightest_s = min((_tpot_s(live) for live in decodes), default=inf)
        chosen = [live for live in decodes if self._pays(live, tightest_s)]
        ranked = self._guarded(snapshot, prompts)
        allowed = [live for live in ranked if self._fits(live, snapshot, decodes)]
        budget = self.max_step_tokens
        if not chosen and not allowed:
            allowed, chosen = ranked[:1], decodes
        return drawn(snapshot, chosen, allowed, budget, self.max_running)

    def ended(self, request: Request, output_tokens: int, reason: FinishReason) -> None:
        """Learn lengths, which stand for the paper's length predictor."""
        self._credit.pop(request.id, None)
        if reason in (FinishReason.STOP, FinishReason.LENGTH):
            self.lengths.learn(request, output_tokens)

    def _pays(self, live: Live, tightest_s: float) -> bool:
        tpot_s = _tpot_s(live)
        ratio = 1.0 if tpot_s == tightest_s else max(tightest_s / tpot_s, 1 / 64)
        credit = self._credit.get(live.request.id, 0.0) + ratio
        runs = credit >= 1
        self._credit[live.request.id] = credit - runs
        return runs

    def _guarded(self, snapshot: Snapshot, prompts: list[Live]) -> list[Live]:
        before_s, kept, late = snapshot.now_s, [], []
        for live in sorted(prompts, key=lambda live: (due_s(live), live.arrival_s)):
            work_s = self.prompt_s(live)
            if not live.output_tokens and before_s + work_s > due_s(live):
                late.append(live)
            else:
                before_s += work_s
                kept.append(live)
        return kept + late

    def _fits(self, live: Live, snapshot: Snapshot, decodes: list[Live]) -> bool:
        if live.held_blocks and live in snapshot.running:
            return True
        batch = [*decodes, live]
        tightest_s = min(_tpot_s(one) for one in batch)
        if tightest_s == inf:
            return True
        size = sum(min(tightest_s / _tpot_s(one), 1.0) for one in batch)
        mean = sum(one.known_tokens for one in batch) / len(batch)
        mean += self.lengths.remaining(live.request, live.output_tokens) / 2
        count = max(1, round(size))
        mix = Mix(count, max(2, round(mean)) * count)
        return self.cost.step_s(mix).mean_s <= tightest_s


@dataclass(frozen=True, slots=True, kw_only=True)
class HfxReconstruction(_Priced):
    """HFX, first named HyperFlexis (Yousefijamarani et al., arXiv 2508.15919): a reconstruction.

    No code and no algorithm of it is public. This is what its abstract says - token budgets
    estimated from latency budgets, and requests prioritized, "to ensure proactive SLO compliance
    for both new and in-flight requests" - in the plainest form: the request with the least slack
    first; a prompt budget that is the inverse of the step's time at the least slack of decodes;
    a request starts if decodes would still meet the tightest TPOT with it. Nothing is relegated.
    """

    def plan(self, snapshot: Snapshot) -> Plan:
        """See `hfx.scheduler.StepPolicy.plan`."""
        now_s = snapshot.now_s
        decodes, prompts = parted(snapshot)
        budget_s = min((_mean_due_s(live) - now_s for live in decodes), default=inf)

        def slack_s(live: Live) -> tuple[float, float]:
            return due_s(live) - now_s - self.prompt_s(live), live.arrival_s

        ranked = sorted(prompts, key=slack_s)
        mix = mix_of(decodes)
        allowed = [live for live in ranked if self._fits(live, snapshot, mix, decodes)]
        if not decodes and not allowed:
            allowed = ranked
        history = allowed[0].cached_tokens if allowed else 0
        budget = len(decodes) + self.chunk_tokens(budget_s, mix, history)
        return drawn(snapshot, decodes, allowed, budget, self.max_running)

    def _fits(self, live: Live, snapshot: Snapshot, mix: Mix, decodes: list[Live]) -> bool:
        if live in snapshot.running:
            return True
        tightest_s = min(map(_tpot_s, (*decodes, live)))
        joined = mix + Mix.one(1, live.known_tokens)
        return self.cost.step_s(joined).mean_s <= tightest_s


def parted(snapshot: Snapshot) -> tuple[list[Live], list[Live]]:
    """Decodes, and prompts: running ones and all that wait, each brought up to date."""
    decodes = [live for live in snapshot.running if live.is_decoding]
    prompts = [live for live in snapshot.running if not live.is_decoding]
    for live in snapshot.waiting:
        snapshot.refresh(live)
        prompts.append(live)
    return decodes, prompts


def mix_of(decodes: Iterable[Live]) -> Mix:
    """What a step of these decodes alone does."""
    contexts = [live.known_tokens for live in decodes]
    squares = sum(context * context for context in contexts)
    return Mix(len(contexts), sum(contexts), decode_context_squares=squares)


def drawn(
    snapshot: Snapshot, decodes: list[Live], prompts: list[Live], budget: int, max_running: int
) -> Plan:
    """A plan of decodes and then prompts within a step's tokens; later arrivals give way first."""
    fill = Fill(snapshot, lambda: list(snapshot.running))
    fill.advance_each(decodes, budget)
    serve(fill, snapshot, prompts, budget, max_running)
    return fill.plan()


def _tpot_s(live: Live) -> float:
    return live.request.objective.tpot_s or inf


def _next_due_s(live: Live) -> float:
    """When the next token is due: by its pace from the first on, or by a deadline alone."""
    promise = live.request.objective
    if promise.tpot_s is None:
        return live.arrival_s + (promise.deadline_s or inf)
    return _mean_due_s(live)


def _mean_due_s(live: Live) -> float:
    assert live.first_token_s is not None
    return live.first_token_s + live.output_tokens * _tpot_s(live)
