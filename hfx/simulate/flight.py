"""A job on its way through a fleet: what its replica knows of it. Seconds, tokens."""

from __future__ import annotations

from math import inf

from hfx.cache import Holding
from hfx.scheduler import Live

from .job import Fate, Job

ROUNDING = 1e-9  # seconds: due times are sums of floats

_NOTHING_HELD = Holding()


class Flight:
    """One job; `live` is what policies are shown of it, `owed` its tokens in its replica's count
    of prompt tokens to compute."""

    __slots__ = (
        "_every_s",
        "_first_due_s",
        "_last_due_s",
        "_late_s",
        "fate",
        "holding",
        "is_resting",
        "is_running",
        "job",
        "kept_blocks",
        "live",
        "names",
        "number",
        "owed",
    )

    def __init__(self, job: Job, number: int, *, keep_tokens: bool = False) -> None:
        request = job.request
        self.job = job
        self.number = number
        self.live = Live(request, 0, request.prompt_tokens, 0, 0, arrival_s=request.arrival_s)
        self.fate = Fate(job, token_s=[] if keep_tokens else None)
        self.is_running = False  # it holds blocks
        self.is_resting = False  # and yet isn't planned, while the last of them move elsewhere
        self.holding = _NOTHING_HELD
        self.kept_blocks = 0
        self.names: list[bytes] = []
        self.owed = 0
        promise = request.objective
        counts = promise.ttft_s is not None or promise.tpot_s is not None
        self._first_due_s = request.arrival_s + (promise.ttft_s or 0.0) if counts else inf
        self._every_s = promise.tpot_s or 0.0
        self._last_due_s = request.arrival_s + (promise.deadline_s or inf)
        self._late_s = self._last_due_s + ROUNDING

    @property
    def order(self) -> tuple[float, int]:
        """The order in which replicas keep their requests: arrival."""
        return self.live.arrival_s, self.number

    @property
    def left(self) -> int:
        """Tokens that will still come, which no policy may know."""
        return self.job.output_tokens - self.live.output_tokens

    @property
    def expires_s(self) -> float:
        """When it ends, done or not; never where no deadline is hard."""
        return self._last_due_s if self.live.request.objective.on_miss == "refuse" else inf

    def token(self, now_s: float) -> bool:
        """Another output token has come; whether it was the last."""
        live, fate = self.live, self.fate
        count = live.output_tokens
        if live.first_token_s is None:
            live.first_token_s = now_s
        if fate.is_on_time and (
            now_s > self._first_due_s + count * self._every_s + ROUNDING or now_s > self._late_s
        ):
            fate.is_on_time = False
        live.known_tokens += 1
        live.output_tokens = count = count + 1
        live.last_token_s = now_s
        if fate.token_s is not None:
            fate.token_s.append(now_s)
        return count == self.job.output_tokens

    def tokens(self, ends_s: list[float]) -> None:
        """Several have come, one in each of steps that never get shorter; it was decoding.

        Steps that grow put the token that is latest against its due time at one of the two ends.
        """
        live = self.live
        more = len(ends_s) - 1
        if more:
            self.token(ends_s[0])
            if self.fate.token_s is not None:
                self.fate.token_s.extend(ends_s[1:more])
            live.known_tokens += more - 1
            live.output_tokens += more - 1
        self.token(ends_s[-1])
        live.cached_tokens += len(ends_s)
