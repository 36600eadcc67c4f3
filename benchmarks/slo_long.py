"""A long prompt among streaming chats: what its prefill does to the gaps between their tokens.

The chats have a history, which is cached already. They stream alone first and then once more with
the long prompt among them. Gaps grow with the chats' contexts by themselves, so those while the
prompt is prefilled are compared with the gaps at the same places of the same chats without it;
those just before it came are told beside.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from statistics import fmean
from typing import Any

import aiohttp
import numpy as np

from hfx.bench.attainment import Targets
from hfx.bench.client import Target, send
from hfx.bench.load import run_load
from hfx.bench.outcome import Outcome, output_tokens
from hfx.bench.workload import Prompt, TokenPool, trace_prompts
from hfx.cost import StepCost
from hfx.request import Mix
from hfx.traces import Row

CHATS, HISTORY_TOKENS, PHRASE_TOKENS = 16, 2000, 25
LONG_TOKENS, LONG_TTFT_S = 6000, 60.0
BEFORE_S = 8.0  # the chats stream so long before the prompt comes
CHAT_TPOT = 1.25  # a chat's promised TPOT over the price of a step of 16 halfway through
CHAT_OUT = {"hfx": 1350, "fcfs": 350}  # enough to stream until the prompt is done


@dataclass(frozen=True, slots=True)
class Gap:
    """The time between two tokens of one chat: when it ended, and after how many tokens."""

    end_s: float
    place: int
    took_s: float


def gaps(outcome: Outcome) -> list[Gap]:
    ends_s = accumulate(outcome.itls_s, initial=outcome.start_s + outcome.ttft_s)
    next(ends_s)
    return [
        Gap(end_s, place, took_s)
        for place, (end_s, took_s) in enumerate(zip(ends_s, outcome.itls_s, strict=False))
    ]


def p99_s(found: Sequence[Gap]) -> float:
    return float(np.percentile([gap.took_s for gap in found], 99))


def compared(alone: Sequence[Outcome], among: Sequence[Outcome], long: Outcome) -> dict[str, Any]:
    """p99 gaps during the prefill, at the same places without it, and before it."""
    began_s, ended_s = long.start_s, long.start_s + long.ttft_s
    during, before, same = [], [], []
    for with_it, without in zip(among, alone, strict=True):
        mine = gaps(with_it)
        inside = [gap for gap in mine if began_s < gap.end_s <= ended_s]
        during += inside
        before += [gap for gap in mine if gap.end_s <= began_s and gap.place >= WARM_PLACES]
        places = [gap.place for gap in inside]
        first, last = min(places, default=0) - BESIDE, max(places, default=-1)
        same += [gap for gap in gaps(without) if first <= gap.place <= last]
    if not (during and before and same):
        raise RuntimeError("the chats ended before the long prompt was done: raise CHAT_OUT")
    return {
        "ratio": p99_s(during) / p99_s(same),
        "ratio_to_before": p99_s(during) / p99_s(before),
        "mean_itl_ms_during": fmean(gap.took_s for gap in during) * 1e3,
        "mean_itl_ms_without": fmean(gap.took_s for gap in same) * 1e3,
        "p99_itl_ms_during": p99_s(during) * 1e3,
        "p99_itl_ms_without": p99_s(same) * 1e3,
        "p99_itl_ms_before": p99_s(before) * 1e3,
        "long_ttft_s": long.ttft_s,
        "long_kept": long.ttft_s <= LONG_TTFT_S,
        "gaps": len(during),
        "tokens_per_chunk": sum(map(output_tokens, among)) / sum(1 + len(o.itls_s) for o in among),
        "streaming": sum(o.start_s + o.latency_s > ended_s for o in among),
    }


BESIDE = 50  # gaps more on the side without: a short prefill alone holds too few to compare
WARM_PLACES = 10  # the first gaps hold the other chats' prompts


async def measure(
    session: aiohttp.ClientSession, target: Target, pool: TokenPool, policy: str, cost: StepCost
) -> dict[str, Any]:
    """Both runs on one server, with promises by this machine's prices; what `compared` says."""
    rng = np.random.default_rng(5)
    outputs = CHAT_OUT[policy]
    halfway = Mix.of([(1, HISTORY_TOKENS + outputs // 2)] * CHATS)
    tpot_s = round(CHAT_TPOT * cost.step_s(halfway).mean_s, 4)
    promised = Targets(ttft_s=10.0, tpot_s=tpot_s)
    chats = _promised([_chat(rng, pool, outputs) for _ in range(CHATS)], promised)
    (long,) = _promised(_plain(rng, [Row(None, LONG_TOKENS, 8)], pool), Targets(ttft_s=LONG_TTFT_S))
    histories = [replace(chat, output_tokens=1, body={}) for chat in chats]
    await run_load(session, target, histories, max_concurrency=2)
    alone = (await run_load(session, target, chats)).outcomes
    streaming = asyncio.create_task(run_load(session, target, chats))
    await asyncio.sleep(BEFORE_S)
    outcome = await send(session, target, long)
    among = (await streaming).outcomes
    if failed := next((o.error for o in (*alone, *among, outcome) if not o.success), ""):
        raise RuntimeError(f"a request failed: {failed}")
    found = compared(alone, among, outcome)
    return found | {"chat_tpot_ms": tpot_s * 1e3, "chat_joint": _kept(chats, among)}


def _chat(rng: np.random.Generator, pool: TokenPool, outputs: int) -> Prompt:
    """A history that repeats itself, and so will the answer: each of its tokens is a word.

    Half a character can't be sent, so that answers of rarer signs have gaps of several tokens.
    """
    (phrase,) = _plain(rng, [Row(None, PHRASE_TOKENS, outputs)], pool)
    content = list(phrase.content) * (HISTORY_TOKENS // PHRASE_TOKENS)
    return replace(phrase, content=content, prompt_tokens=len(content))


def _plain(rng: np.random.Generator, rows: Sequence[Row], pool: TokenPool) -> list[Prompt]:
    return trace_prompts(rng, rows, pool, as_text=False)


def _promised(prompts: Sequence[Prompt], targets: Targets) -> list[Prompt]:
    return [replace(p, targets=targets, body={"slo": targets.slo}) for p in prompts]


def _kept(prompts: Sequence[Prompt], outcomes: Sequence[Outcome]) -> float:
    pairs = zip(prompts, outcomes, strict=True)
    return sum(prompt.targets.are_kept(outcome) for prompt, outcome in pairs) / len(prompts)
