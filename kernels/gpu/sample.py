# mypy: disable-error-code="no-untyped-def, untyped-decorator, no-untyped-call"
"""Choosing each row's next token on the device, without a round trip to the host.

R rows, V vocabulary. As on the host: temperature, then min_p (relative to the best token), then
top_k, then top_p; equals are kept together. A row's outcome depends on nothing but that row, its
seed and its step.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from ..draws import NO_TOKEN, Draws
from .attend import LOG2_E
from .configs import padded

BLOCK = 4096
LEAST_WEIGHT: tl.constexpr = tl.constexpr(1e-37)  # a normal number: less is flushed to 0 somewhere
__all__ = ["NO_TOKEN", "Draws", "sample"]


def sample(logits_RV: torch.Tensor, draws: Draws) -> torch.Tensor:
    """Token ids int64 [R]; `NO_TOKEN` for a row that holds NaN or has no finite maximum.

    Rows may be strided. Nothing waits for the device.
    """
    rows, vocabulary = logits_RV.shape
    tokens_R = torch.empty(rows, dtype=torch.int64, device=logits_RV.device)
    if rows:
        sample_rows[(rows,)](
            logits_RV,
            draws.temperature_R,
            draws.top_k_R,
            draws.top_p_R,
            draws.min_p_R,
            draws.seed_R,
            draws.step_R,
            tokens_R,
            vocabulary,
            logits_RV.stride(0),
            BLOCK=min(BLOCK, padded(vocabulary)),
            num_warps=8,
        )
    return tokens_R


@triton.jit
def sample_rows(
    logits,
    temperature_R,
    top_k_R,
    top_p_R,
    min_p_R,
    seed_R,
    step_R,
    tokens_R,
    V,
    stride,
    BLOCK: tl.constexpr,
):
    """A program has one row, which it reads again and again: it stays in the cache.

    A token's weight is exp((logit - best) / temperature), at most 1; its score is the log2 of that.
    """
    row = tl.program_id(0)
    logits += row.to(tl.int64) * stride
    best, token, is_number = _best(logits, V, BLOCK)
    temperature = tl.load(temperature_R + row)
    if is_number & (temperature > 0):
        rate = LOG2_E / temperature
        floor = tl.maximum(tl.load(min_p_R + row), LEAST_WEIGHT)
        top_k = tl.load(top_k_R + row)
        if (top_k > 0) & (top_k < V):
            kept, _, _ = _holdings(logits, V, best, rate, floor, floor, floor, False, BLOCK)
            wanted = tl.minimum(top_k.to(tl.float32), kept)
            floor = _raised(logits, V, best, rate, floor, wanted, False, BLOCK)
        top_p = tl.load(top_p_R + row)
        if top_p < 1:
            total, _, _ = _holdings(logits, V, best, rate, floor, floor, floor, True, BLOCK)
            floor = _raised(logits, V, best, rate, floor, top_p * total, True, BLOCK)
        seed, step = tl.load(seed_R + row), tl.load(step_R + row)
        token = _draw(logits, V, best, rate, floor, seed, step, BLOCK)
    tl.store(tokens_R + row, tl.where(is_number, token, -1).to(tl.int64))


@triton.jit
def _best(logits, V, BLOCK: tl.constexpr):
    """The greatest logit, the first token that has it, and whether all of them are usable."""
    best_B = tl.full([BLOCK], float("-inf"), tl.float32)
    token_B = tl.zeros([BLOCK], tl.int32)
    nans_B = tl.zeros([BLOCK], tl.int32)
    for start in range(0, V, BLOCK):
        v_B = start + tl.arange(0, BLOCK)
        x_B = tl.load(logits + v_B, v_B < V, other=float("-inf")).to(tl.float32)
        nans_B += (x_B != x_B).to(tl.int32)
        token_B = tl.where(x_B > best_B, v_B, token_B)
        best_B = tl.where(x_B > best_B, x_B, best_B)
    best = tl.max(best_B, 0)
    token = tl.min(tl.where(best_B == best, token_B, V), 0)
    is_number = (tl.sum(nans_B, 0) == 0) & (tl.abs(best) < float("inf"))
    return best, token, is_number


@triton.jit
def _scores(logits, start, V, best, rate, BLOCK: tl.constexpr):
    v_B = start + tl.arange(0, BLOCK)
    x_B = tl.load(logits + v_B, v_B < V, other=float("-inf")).to(tl.float32)
    return (x_B - best) * rate


@triton.jit
def _holdings(logits, V, best, rate, low, middle, high, BY_MASS: tl.constexpr, BLOCK: tl.constexpr):
    """How many weights, or how much of them, reach each of three bounds."""
    low_B = tl.zeros([BLOCK], tl.float32)
    middle_B = tl.zeros([BLOCK], tl.float32)
    high_B = tl.zeros([BLOCK], tl.float32)
    for start in range(0, V, BLOCK):
        weight_B = tl.exp2(_scores(logits, start, V, best, rate, BLOCK))
        amount_B = weight_B
        if not BY_MASS:
            amount_B = tl.full([BLOCK], 1.0, tl.float32)
        low_B += tl.where(weight_B >= low, amount_B, 0.0)
        middle_B += tl.where(weight_B >= middle, amount_B, 0.0)
        high_B += tl.where(weight_B >= high, amount_B, 0.0)
    return tl.sum(low_B, 0), tl.sum(middle_B, 0), tl.sum(high_B, 0)


@triton.jit
def _raised(logits, V, best, rate, floor, wanted, BY_MASS: tl.constexpr, BLOCK: tl.constexpr):
    """The greatest floor that still holds what is wanted, exact to the last bit.

    Positive floats are ordered as their bits are: from the highest on, two bits a pass.
    """
    bits = floor.to(tl.int32, bitcast=True) * 0
    for turn in range(15):  # 30 bits: up to 2
        shift = 28 - 2 * turn
        one, two, three = bits | (1 << shift), bits | (2 << shift), bits | (3 << shift)
        low = tl.maximum(one.to(tl.float32, bitcast=True), floor)
        middle = tl.maximum(two.to(tl.float32, bitcast=True), floor)
        high = tl.maximum(three.to(tl.float32, bitcast=True), floor)
        of_low, of_middle, of_high = _holdings(
            logits, V, best, rate, low, middle, high, BY_MASS, BLOCK
        )
        bits = tl.where(of_low >= wanted, one, bits)
        bits = tl.where(of_middle >= wanted, two, bits)
        bits = tl.where(of_high >= wanted, three, bits)
    return tl.maximum(bits.to(tl.float32, bitcast=True), floor)


@triton.jit
def _draw(logits, V, best, rate, floor, seed, step, BLOCK: tl.constexpr):
    """A token by its weight: whose exponential variable, divided by the weight, is least."""
    greatest_B = tl.full([BLOCK], float("-inf"), tl.float32)
    token_B = tl.zeros([BLOCK], tl.int32)
    for start in range(0, V, BLOCK):
        v_B = start + tl.arange(0, BLOCK)
        score_B = _scores(logits, start, V, best, rate, BLOCK)
        zero_B = v_B * 0
        noise_B, _, _, _ = tl.philox(seed, v_B, zero_B + step, zero_B, zero_B)
        rank_B = score_B - _log2_of_exponential(tl.uint_to_uniform_float(noise_B))
        rank_B = tl.where(tl.exp2(score_B) >= floor, rank_B, float("-inf"))
        token_B = tl.where(rank_B > greatest_B, v_B, token_B)
        greatest_B = tl.where(rank_B > greatest_B, rank_B, greatest_B)
    return tl.min(tl.where(greatest_B == tl.max(greatest_B, 0), token_B, V), 0)


@triton.jit
def _log2_of_exponential(uniform):
    """log2(-log(1 - uniform)), exact for small numbers too: those win."""
    uniform = tl.maximum(uniform, 1e-10)
    series = uniform * (1 + uniform * (0.5 + uniform * 0.3333333333))
    return tl.log2(tl.where(uniform < 0.01, series, -tl.log(1 - uniform)))
