"""What a policy remembers of one request: when its tokens are due, and how it is classed.

Due times are seconds on the snapshot's clock. A first token is due at arrival + TTFT. Later ones
are due by the mean rule, token n at first token + (n - 1) TPOT: the stricter of the two published
rules whenever the first token was in time. A deadline makes the last token due.
"""

from math import inf

from .lengths import Lengths
from .policy import Live


class Track:
    """One request. `due_s` is when its prompt must be done: infinite where nothing says so.

    `is_relegated`: its promise can't be kept, so it is served from spare capacity. `work_s` is the
    price of its prompt, `prompt_due_s` the static key that orders prompts.
    """

    __slots__ = (
        "deadline_s",
        "due_s",
        "is_relegated",
        "live",
        "order",
        "skipped",
        "tpot_s",
        "weight",
        "work_s",
    )

    def __init__(self, live: Live, lengths: Lengths, pace_s: float) -> None:
        request = live.request
        promise = request.objective
        self.live = live
        self.tpot_s = promise.tpot_s or 0.0
        self.weight = promise.weight
        self.deadline_s = inf
        self.due_s = inf
        self.is_relegated = False
        self.skipped = 0
        self.work_s = 0.0
        self.order = (request.priority, live.arrival_s, request.id)
        if promise.ttft_s is not None:
            self.due_s = live.arrival_s + promise.ttft_s
        if promise.deadline_s is not None:
            self.deadline_s = live.arrival_s + promise.deadline_s
            left_s = lengths.remaining(request, 0) * pace_s
            self.due_s = min(self.due_s, max(self.deadline_s - left_s, live.arrival_s))

    @property
    def has_promise(self) -> bool:
        """Whether anything was promised at all."""
        return self.tpot_s > 0 or self.due_s < inf

    def token_due_s(self, lengths: Lengths, pace_s: float) -> float:
        """When the next output token is due, once there was a first one.

        By the deadline's account the tokens still expected come at `pace_s` each.
        """
        live = self.live
        due_s = inf
        if self.tpot_s:
            assert live.first_token_s is not None
            due_s = live.first_token_s + live.output_tokens * self.tpot_s
        if self.deadline_s < inf:
            left = lengths.remaining(live.request, live.output_tokens)
            due_s = min(due_s, self.deadline_s - (left - 1) * pace_s)
        return due_s
