"""A random replica is killed every few seconds under load: what becomes of each answer. Seconds."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import time
from concurrent.futures import Future
from typing import Any

import numpy as np

from hfx.bench.load import Run
from hfx.bench.outcome import Outcome
from hfx.bench.workload import Prompt
from hfx.config import ModelConfig
from hfx.engine.emulate import said
from hfx.models import load_words

from .fleet_load import Load, Traffic, fleet, metric, replica_pids
from .fleet_serving import token_ids
from .process import ServerProcess

REPLICAS = 4
RATE_RPS = 8.0
PROMPT, OUTPUT = (16, 512), (16, 300)  # tokens, from and to
HUNG_S = 60.0  # after the last arrival: an answer that has not ended by then never will


def kills(load: Load, seconds: float, every_s: float, seed: int = 0) -> dict[str, Any]:
    """Kill for so long, and count what was lost, told twice or never ended.

    Every answer is known beforehand: an emulated device says the same words over and over.
    """
    rng = np.random.default_rng(seed)
    times = np.cumsum(rng.exponential(1 / RATE_RPS, int(RATE_RPS * seconds)))
    prompts = [
        Prompt(token_ids(rng, int(rng.integers(*PROMPT))), int(rng.integers(*OUTPUT)))
        for _ in times
    ]
    with fleet(REPLICAS, "--max-num-seqs", "256", "--max-num-batched-tokens", "2048") as server:
        future = load.start(server, Traffic(prompts, [float(t) for t in times]))
        killed = _kill(future, server, seconds, every_s, random.Random(seed))
        hung = _wait(future)
        run: Run | None = None if hung else future.result()
        resumed = metric(server, "fleet_requests_resumed_total")
    outcomes = () if run is None else run.outcomes
    words = _words(max(prompt.output_tokens for prompt in prompts))
    verdicts = [verdict(o, p, words) for o, p in zip(outcomes, prompts, strict=False)]
    return {
        "part": "kills",
        "requests": len(prompts),
        "kills": killed,
        "resumed": resumed,
        "lost": verdicts.count("lost"),
        "duplicated": verdicts.count("duplicated"),
        "hung": len(prompts) - len(outcomes),
        "worst_gap_s": max((max(o.itls_s, default=0.0) for o in outcomes), default=0.0),
        "errors": sorted({o.error for o in outcomes if not o.success})[:3],
    }


def _kill(
    future: Future[Run], server: ServerProcess, seconds: float, every_s: float, rng: random.Random
) -> int:
    """Kill a replica now and then until the time is over; how many."""
    killed, ends_s = 0, time.monotonic() + seconds
    while time.monotonic() + every_s <= ends_s and not future.done():
        time.sleep(every_s)
        server.check()
        pids = replica_pids(server)
        if pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(rng.choice(pids), signal.SIGKILL)
                killed += 1
    return killed


def _wait(future: Future[Run]) -> bool:
    """Whether answers are still missing long after they were due."""
    try:
        future.result(HUNG_S)
    except TimeoutError:
        return True
    return False


def _words(tokens: int) -> str:
    """What an emulated device says in so many tokens, and a few more."""
    words = load_words(ModelConfig())
    ids = said(words.tokenizer)
    return words.tokenizer.decode((ids * (tokens // len(ids) + 2))[: tokens + 8], True)


def verdict(outcome: Outcome, prompt: Prompt, words: str) -> str:
    """Whether an answer is what it would have been if nobody had died."""
    if not outcome.success or (outcome.output_tokens or 0) < prompt.output_tokens:
        return "lost"
    if outcome.output_tokens != prompt.output_tokens or not words.startswith(outcome.text):
        return "duplicated"
    return "whole"
