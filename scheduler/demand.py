"""The demand-bound test: does promised work that is due by any time t fit into the time until t?

Baruah's processor-demand criterion for one machine, adapted to batching: until t a replica must
compute the prompts due by t, the tokens due by t of every promised output, and as many iterations,
each at its fixed cost, as the output of the tightest pace has tokens, at every moment up to t.
Seconds; S streams (outputs), P prompts, T times.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from math import inf

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
MOST_TIMES = 256  # due times that are looked at
ROUNDING = 1e-9  # of an interval: due times are sums of floats, and a token due at t counts at t


@dataclass(frozen=True, slots=True)
class Stream:
    """Output tokens that are due one by one: `left` of them, the first at `due_s`, then one every
    `every_s`; each makes a step `each_s` longer."""

    due_s: float
    every_s: float
    left: float
    each_s: float

    @property
    def last_s(self) -> float:
        """When its last token is due."""
        return self.due_s + max(0.0, self.left - 1) * self.every_s


@dataclass(frozen=True, slots=True)
class Prompt:
    """A prompt's work, and when it must be done."""

    due_s: float
    work_s: float


class Demand:
    """All promised work of a replica.

    `fixed_s` is what an iteration costs however little it does, `share` how much of the time
    promises may fill.
    """

    def __init__(
        self,
        now_s: float,
        fixed_s: float,
        share: float,
        prompts: Iterable[Prompt],
        streams: Iterable[Stream],
    ) -> None:
        self.now_s = now_s
        self.fixed_s = fixed_s
        self.share = share
        prompts = sorted(prompts, key=lambda prompt: prompt.due_s)
        streams = list(streams)
        self._due_P = np.asarray([prompt.due_s for prompt in prompts])
        self._work_P = np.cumsum([0.0, *(prompt.work_s for prompt in prompts)])
        self._streams = np.asarray([(s.due_s, s.every_s, s.left, s.each_s) for s in streams])
        self._times_T = _times(now_s, prompts, streams)
        self._work_T = self._work_s(self._times_T)
        self._rate_T = self._rate(self._times_T)
        self._need_T = self._work_T + fixed_s * _integral(self._times_T, self._rate_T)

    @property
    def done_s(self) -> float:
        """When all of it is done, at the latest."""
        return max(float(self._times_T[-1]), self.now_s + float(self._need_T[-1]) / self.share)

    def excess_s(self) -> float:
        """By how much demand exceeds the time there is, at the worst due time; up to 0 it fits."""
        return float(np.max(self._need_T - self.share * (self._times_T - self.now_s)))

    def excess_with_s(self, prompt: Prompt, stream: Stream | None = None) -> float:
        """The same with one more request, at the due times to which it adds."""
        own_T = np.asarray(
            [prompt.due_s, *((stream.due_s, stream.last_s) if stream is not None else ())]
        )
        times_T = np.concatenate((self._times_T, own_T))
        order_T = np.argsort(times_T, kind="stable")
        times_T = times_T[order_T]
        need_T = np.concatenate((self._work_T, self._work_s(own_T)))[order_T] + prompt.work_s
        place_T = np.searchsorted(self._times_T, times_T, side="right") - 1
        rate_T = np.where(place_T < 0, 0.0, self._rate_T[place_T])
        if stream is not None:
            need_T += stream.each_s * _tokens(times_T, stream.due_s, stream.every_s, stream.left)
            runs_T = (times_T >= prompt.due_s) & (times_T < stream.last_s)
            rate_T = np.where(runs_T, np.maximum(rate_T, 1 / stream.every_s), rate_T)
        need_T += self.fixed_s * _integral(times_T, rate_T)
        over_T = need_T - self.share * (times_T - self.now_s)
        return float(np.max(over_T[times_T >= prompt.due_s]))

    def _work_s(self, times_T: Array) -> Array:
        """The time that prompts and tokens take which are due by each of some times."""
        work_T: Array = self._work_P[np.searchsorted(self._due_P, times_T, side="right")]
        if self._streams.size:
            due_S, every_S, left_S, each_S = self._streams.T[:, :, None]
            work_T = work_T + (_tokens(times_T, due_S, every_S, left_S) * each_S).sum(axis=0)
        return work_T

    def _rate(self, times_T: Array) -> Array:
        """Iterations per second from each time to the next: those of the tightest pace."""
        if not self._streams.size:
            return np.zeros_like(times_T)
        due_S, every_S, left_S, _ = self._streams.T[:, :, None]
        runs_ST = (times_T >= due_S - every_S) & (times_T < due_S + (left_S - 1) * every_S)
        rate_T: Array = np.where(runs_ST, 1 / every_S, 0.0).max(axis=0)
        return rate_T


def _integral(times_T: Array, rate_T: Array) -> Array:
    """What a rate that holds from each time to the next adds up to by each of them."""
    steps_T = np.diff(times_T) * rate_T[:-1]
    total_T: Array = np.concatenate(([0.0], np.cumsum(steps_T)))
    return total_T


def _tokens(
    times_T: Array, due_s: Array | float, every_s: Array | float, left: Array | float
) -> Array:
    """How many tokens of a stream are due by each of some times."""
    count: Array = np.clip(np.floor((times_T - due_s) / every_s + ROUNDING) + 1, 0.0, left)
    return count


def _times(now_s: float, prompts: list[Prompt], streams: list[Stream]) -> Array:
    """Now, and due times in order; evenly chosen where there are too many, the last always."""
    times = {prompt.due_s for prompt in prompts}
    for stream in streams:
        times.update((stream.due_s - stream.every_s, stream.due_s, stream.last_s))
    ordered = sorted(time for time in times if now_s < time < inf)
    if len(ordered) > MOST_TIMES:
        ordered = ordered[:: -(-len(ordered) // MOST_TIMES)] + ordered[-1:]
    return np.asarray([now_s, *ordered], dtype=np.float64)
