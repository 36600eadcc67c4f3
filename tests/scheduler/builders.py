"""Prices that can be checked by hand, and requests as policies see them.

A step costs 10 ms, 1 ms for each decode and for each prompt token; bounds are means.
"""

from typing import Any

from hfx.cost import Key, Regime, StepCost
from hfx.request import Objective, Request, Sampling
from hfx.scheduler import Blocks, Live, Snapshot

BLOCK_TOKENS = 16
FIXED_S, EACH_S = 0.010, 0.001


def priced(fixed_s: float = FIXED_S, each_s: float = EACH_S, upper: float = 1.0) -> StepCost:
    regime = Regime(knots_tokens=(0.0,), curve_s=(fixed_s,), per_token_s=each_s, upper_factor=upper)
    key = Key(device="toy", model="toy", dtype="bfloat16")
    return StepCost(key=key, decode=regime, mixed=regime)


def make_request(id: str, prompt: int = 32, arrival_s: float = 0.0, **promise: Any) -> Request:
    priority = promise.pop("priority", 0)
    hint = promise.pop("hint", None)
    most = promise.pop("max_tokens", 1000)
    return Request(
        id=id,
        prompt_token_ids=(0,) * prompt,
        objective=Objective(**promise),
        arrival_s=arrival_s,
        priority=priority,
        sampling=Sampling(max_tokens=most),
        expected_output_tokens=hint,
    )


def waits(id: str, prompt: int = 32, arrival_s: float = 0.0, **promise: Any) -> Live:
    return Live(
        make_request(id, prompt, arrival_s, **promise), 0, prompt, 0, 0, arrival_s=arrival_s
    )


def decodes(
    id: str,
    output: int = 1,
    prompt: int = 31,
    first_s: float = 0.0,
    arrival_s: float = 0.0,
    **promise: Any,
) -> Live:
    """A running request that has `output` tokens, the first of which came at `first_s`."""
    known = prompt + output
    return Live(
        make_request(id, prompt, arrival_s, **promise),
        known - 1,
        known,
        output,
        -(-(known - 1) // BLOCK_TOKENS),
        arrival_s=arrival_s,
        first_token_s=first_s,
        last_token_s=first_s,
    )


def snapshot(
    now_s: float,
    running: list[Live] | None = None,
    waiting: list[Live] | None = None,
    free: int = 1000,
) -> Snapshot:
    running = running or []
    total = free + sum(live.held_blocks for live in running)
    return Snapshot(now_s, running, waiting or [], Blocks(total, free, BLOCK_TOKENS))
