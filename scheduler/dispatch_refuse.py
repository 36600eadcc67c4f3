"""What a request is told that would rather be refused than late: no, when, and what could be.

Seconds, tokens.
"""

from __future__ import annotations

from collections.abc import Iterable
from math import inf

from hfx.request import Mix, Refused

from .dispatch_fit import MOST_SHARE, STEP_TOKENS, Fit
from .dispatch_queue import Queue, Waiting
from .prices import idle_ttft_s, prompt_s


def refusal(
    waiting: Waiting, fits: Iterable[Fit], queue: Queue, output_tokens: float, now_s: float
) -> Refused | None:
    """Why none of some replicas can keep a request's promise; None where one can.

    `feasible` has the best value of each target that was asked for on any of them, behind the work
    in the queue that is due earlier.
    """
    fits = list(fits)
    promise = waiting.live.request.objective
    asked = {
        name: value
        for name in ("ttft_s", "tpot_s", "deadline_s")
        if (value := getattr(promise, name)) is not None
    }
    ahead_s = queue.ahead_s(waiting.due_s) / max(1e-9, sum(fit.share() for fit in fits))
    reachable = [_reachable(waiting, fit, ahead_s, output_tokens) for fit in fits]
    if not asked or any(all(best[n] <= asked[n] for n in asked) for best in reachable):
        return None
    best = {name: min(one[name] for one in reachable) for name in asked}
    alone = [_alone(waiting, fit, output_tokens) for fit in fits]
    if not any(all(one[n] <= asked[n] for n in asked) for one in alone):
        short = next(
            (n for n in asked if all(one[n] > asked[n] for one in alone)), next(iter(asked))
        )
        return Refused(
            f"{short} of {asked[short]:.4g} s is beyond every replica: "
            f"{min(one[short] for one in alone):.4g} s with nothing else to do",
            inf,
            best,
        )
    late_s = min(max(one[n] - asked[n] for n in asked) for one in reachable)
    return Refused("the promises already given take the time", late_s, best)


def _reachable(
    waiting: Waiting, fit: Fit, ahead_s: float, output_tokens: float
) -> dict[str, float]:
    live = waiting.live
    work_s = prompt_s(fit.view.cost, live.known_tokens, 0)
    first_s = fit.done_s(waiting.due_s, work_s, waiting.tpot_s) + ahead_s - live.arrival_s
    tpot_s = fit.step_s(1, live.known_tokens)
    return _targets(first_s, tpot_s, output_tokens)


def _alone(waiting: Waiting, fit: Fit, output_tokens: float) -> dict[str, float]:
    """On an idle replica."""
    cost, tokens = fit.view.cost, waiting.live.known_tokens
    tpot_s = cost.step_s(Mix.one(1, max(1, tokens + int(output_tokens / 2)))).mean_s
    return _targets(idle_ttft_s(cost, tokens, 0, STEP_TOKENS), tpot_s, output_tokens)


def _targets(first_s: float, tpot_s: float, output_tokens: float) -> dict[str, float]:
    end_s = first_s + max(0.0, output_tokens - 1) * tpot_s / MOST_SHARE
    return {"ttft_s": first_s, "tpot_s": tpot_s, "deadline_s": end_s}
