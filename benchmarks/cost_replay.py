"""A measured serving run again, step by step, with every step as long as a cost model says.

First come, first served with chunked prompts, as vLLM schedules by default: running sequences take
one token each, waiting prompts what is left of the step's tokens. Seconds, tokens.
"""

import csv
import gzip
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

from hfx.cost import CostModel
from hfx.request import Mix

STEP_TOKENS = 2048  # vLLM's max_num_batched_tokens
SEQUENCES = 128  # the most that ran at once in the measured run


@dataclass(slots=True)
class Replayed:
    """One request: what it asked for, how far it is, and when its tokens came."""

    arrival_s: float
    input_tokens: int
    output_tokens: int
    cached_tokens: int
    computed: int = 0
    emitted: int = 0
    first_s: float = 0.0
    last_s: float = 0.0

    @property
    def is_decoding(self) -> bool:
        return self.computed >= self.input_tokens


@dataclass(frozen=True, slots=True)
class Outcome:
    """What is compared: means over requests, and the whole run's length."""

    ttft_s: float
    tpot_s: float
    makespan_s: float

    @classmethod
    def of(cls, times: Sequence[tuple[float, float, float, int]]) -> "Outcome":
        """From (arrival, first token, last token, output tokens) of every request."""
        return cls(
            ttft_s=fmean(first - arrival for arrival, first, _, _ in times),
            tpot_s=fmean((last - first) / (n - 1) for _, first, last, n in times if n > 1),
            makespan_s=max(last for _, _, last, _ in times) - min(t[0] for t in times),
        )


def measured(path: Path) -> tuple[list[Replayed], Outcome]:
    """The requests of a run, and what became of them."""
    requests, times = [], []
    with gzip.open(path, "rt", newline="") as file:
        for row in csv.DictReader(file):
            inputs, outputs = int(row["input_tokens"]), int(row["output_tokens"])
            arrival_s = float(row["arrival_s"])
            cached = min(int(row["prefix_hit_tokens_max"]), inputs - 1)
            requests.append(Replayed(arrival_s, inputs, outputs, cached))
            first_s, last_s = float(row["first_token_s"]), float(row["last_token_s"])
            times.append((arrival_s, first_s, last_s, outputs))
    return requests, Outcome.of(times)


def replay(requests: Sequence[Replayed], model: CostModel) -> Outcome:
    """The same requests on one virtual replica; they are used up."""
    waiting = deque(sorted(requests, key=lambda request: request.arrival_s))
    running: list[Replayed] = []
    now_s = 0.0
    while waiting or running:
        if not running:
            now_s = max(now_s, waiting[0].arrival_s)
        planned = _plan(running, waiting, now_s)
        mix = Mix.of((tokens, request.computed) for request, tokens in planned)
        now_s += model.step_s(mix).mean_s
        for request, tokens in planned:
            _advance(request, tokens, now_s)
        running = [request for request in running if request.emitted < request.output_tokens]
    return Outcome.of([(r.arrival_s, r.first_s, r.last_s, r.output_tokens) for r in requests])


def _plan(
    running: list[Replayed], waiting: deque[Replayed], now_s: float
) -> list[tuple[Replayed, int]]:
    """The tokens of the next step; prompts that start move from waiting to running."""
    planned, left = [], STEP_TOKENS
    for request in running:
        tokens = 1 if request.is_decoding else min(left, request.input_tokens - request.computed)
        if tokens:
            planned.append((request, tokens))
            left -= tokens
    while left and waiting and waiting[0].arrival_s <= now_s and len(running) < SEQUENCES:
        request = waiting.popleft()
        request.computed = request.cached_tokens
        running.append(request)
        planned.append((request, min(left, request.input_tokens - request.computed)))
        left -= planned[-1][1]
    return planned


def _advance(request: Replayed, tokens: int, now_s: float) -> None:
    request.computed += tokens
    if request.is_decoding:
        request.emitted += 1
        request.last_s = now_s
        if request.emitted == 1:
            request.first_s = now_s
