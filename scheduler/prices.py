"""Prices that planning asks for again and again, in terms of a `CostModel`. Seconds, tokens."""

from math import inf

from hfx.cost import CostModel
from hfx.request import Mix

SHORTEST_TOKENS = 64  # of the steps that are tried
SHORTER = 0.84  # times the tokens of the one tried before
NEARLY = 0.98  # of the most that can be done in a second


def prompt_s(cost: CostModel, tokens: int, history_tokens: int) -> float:
    """What computing that many prompt tokens adds to steps that run anyway."""
    return cost.prompt_s(tokens, history_tokens)


def decode_s(cost: CostModel, context_tokens: float) -> float:
    """What one more decode at that context adds to a step."""
    one = Mix.one(1, max(1, int(context_tokens)))
    return max(0.0, cost.step_s(one + one).mean_s - cost.step_s(one).mean_s)


def fixed_s(cost: CostModel) -> float:
    """What a step of decodes costs before the first of them."""
    one = Mix.one(1, 1)
    alone_s = cost.step_s(one).mean_s
    return max(0.0, 2 * alone_s - cost.step_s(one + one).mean_s)


def idle_ttft_s(
    cost: CostModel, prompt_tokens: int, cached_tokens: int, max_step_tokens: int
) -> float:
    """The time to a prompt's first token with nothing else to do, in steps of limited size."""
    total_s, done = 0.0, cached_tokens
    while done < prompt_tokens:
        take = min(max_step_tokens, prompt_tokens - done)
        total_s += cost.step_s(Mix.one(take, done)).mean_s
        done += take
    return total_s


def efficient_s(
    cost: CostModel, outputs: float, context_tokens: int, max_step_tokens: int
) -> float:
    """The longest step at which a replica gets, but for a little, as much done as it can.

    With every prompt token come `outputs` output tokens at that context, so steps that are twice as
    long have twice the decodes beside twice the prompt tokens; where these make each other dearer,
    longer steps amortise nothing any more.
    """
    steps: list[tuple[float, float]] = []
    tokens = max_step_tokens
    while tokens >= SHORTEST_TOKENS:
        decodes = int(outputs * tokens)
        beside = Mix(decodes, decodes * max(1, context_tokens)) if decodes else Mix()
        step = cost.step_s(beside + Mix.one(max(2, tokens - decodes), 0))
        steps.append((tokens / step.mean_s, step.upper_s))
        tokens = int(tokens * SHORTER)
    best = max((rate for rate, _ in steps), default=0.0)
    return next((upper_s for rate, upper_s in steps if rate >= NEARLY * best), inf)
