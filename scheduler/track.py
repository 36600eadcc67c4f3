"""What a policy remembers of one request: when its tokens are due, and how it is classed.

Due times are seconds on the snapshot's clock. A first token is due at arrival + TTFT. Later ones
are due by the mean rule, token n at first token + (n - 1) TPOT: the stricter of the two published
rules once the first token was in time. A deadline makes the last token due, and the ones before it
as early as the pace of steps asks for.
"""

from __future__ import annotations

from collections.abc import Callable
from math import inf

from .lengths import STRIDE, Lengths
from .policy import Live

RUN_RATE = 0.9  # of TPOT: an iteration that long leaves no decode farther behind than it was
LATER_S = 60.0  # a lost deadline without TTFT is given that much more time
SURE_PART = 0.5  # of the time that tokens sure to come will win back: so far a decode may lag


class Tracks(dict[Live, "Track"]):
    """The tracks of live requests, by the object that stands for each; made when first asked for.

    A dictionary, because it is asked hundreds of times in every step.
    """

    def __init__(self, make: Callable[[Live], Track]) -> None:
        super().__init__()
        self._make = make

    def __missing__(self, live: Live) -> Track:
        track = self[live] = self._make(live)
        return track


class Relegated:
    """The ids of requests whose promise can't be kept, as a set that is made anew if it changes."""

    __slots__ = ("_frozen", "_ids")

    def __init__(self) -> None:
        self._ids: set[str] = set()
        self._frozen: frozenset[str] | None = frozenset()

    def note(self, id: str, is_relegated: bool) -> None:
        """Take in what has become of one."""
        (self._ids.add if is_relegated else self._ids.discard)(id)
        self._frozen = None

    @property
    def ids(self) -> frozenset[str]:
        """All of them now."""
        if self._frozen is None:
            self._frozen = frozenset(self._ids)
        return self._frozen


class Track:
    """One request.

    `due_s` is when its prompt must be done, infinite where nothing says so: if only a deadline
    does, with the present pace of steps for its output, and `latest_s` with the best pace.
    `every_s` is its TPOT if that is all that its later tokens are bound by, else 0. `is_relegated`:
    its promise can't be kept, so it is served from spare capacity. `base_s` is what
    `schedule_from_s` will say from now on, once that is known. `work_s` is the price of what is
    left of its prompt, `whole_s` of all of it, if it is promised. `left` is how many tokens are
    expected to come, as of less than STRIDE tokens ago. `skipped` counts the steps in a row that it
    sat out, `evicted` how often others took its place. `outputs_before` are the output tokens that
    it had when it came here.
    """

    __slots__ = (
        "base_s",
        "deadline_s",
        "due_s",
        "every_s",
        "evicted",
        "id",
        "is_relegated",
        "latest_s",
        "left",
        "left_until",
        "live",
        "may_relegate",
        "order",
        "outputs_before",
        "rate",
        "registry",
        "run_s",
        "skipped",
        "tpot_s",
        "ttft_s",
        "weight",
        "whole_s",
        "work_s",
    )

    def __init__(
        self,
        live: Live,
        lengths: Lengths,
        pace_s: float,
        least_s: float,
        registry: Relegated | None = None,
    ) -> None:
        request, promise = live.request, live.request.objective
        self.live = live
        self.registry = registry or Relegated()
        self.id = request.id
        self.order = (request.priority, live.arrival_s, request.id)
        self.outputs_before = live.output_tokens
        self.weight = promise.weight
        self.may_relegate = promise.may_relegate
        self.ttft_s = promise.ttft_s or inf
        self.tpot_s = promise.tpot_s or inf
        self.deadline_s = live.arrival_s + (promise.deadline_s or inf)
        self.every_s = 0.0 if self.deadline_s < inf or self.tpot_s == inf else self.tpot_s
        self.run_s = self.tpot_s * RUN_RATE
        self.rate = 1 / self.tpot_s
        self.base_s = inf
        self.is_relegated = False
        self.skipped = self.evicted = 0
        self.left, self.left_until = 1.0, -1
        self.work_s = self.whole_s = 0.0
        self.due_s = self._prompt_due_s(lengths, pace_s)
        self.latest_s = self._prompt_due_s(lengths, least_s)

    @property
    def is_promised(self) -> bool:
        """Whether something was promised that can still be kept."""
        return not self.is_relegated and (self.due_s < inf or self.tpot_s < inf)

    @property
    def is_spare(self) -> bool:
        """Whether its prompt is served from spare capacity: it is due never, or lost."""
        return self.is_relegated or self.due_s == inf

    def relegate(self, is_relegated: bool = True) -> None:
        """Its promise can't be kept; or can, after all."""
        if is_relegated is not self.is_relegated:
            self.is_relegated = is_relegated
            self.registry.note(self.id, is_relegated)

    def expect(self, lengths: Lengths) -> None:
        """Bring `left`, the tokens expected to come, up to date; good until `left_until` tokens."""
        output = self.live.output_tokens
        self.left = lengths.remaining(self.live.request, output)
        self.left_until = output + min(STRIDE, max(1, int(self.left) // 4))

    def wait_again(self, lengths: Lengths, pace_s: float) -> None:
        """Its blocks were taken: all of its tokens are a prompt again, due with the next token."""
        self.due_s = self._prompt_due_s(lengths, pace_s)
        if self.live.output_tokens:
            self.due_s = self.token_due_s(lengths, pace_s)

    def postpone(self, now_s: float) -> None:
        """Give a prompt that is late and may not be relegated its promise anew, as if it had just
        arrived: it keeps a place without becoming the most urgent for ever."""
        self.due_s = self.latest_s = now_s + min(self.ttft_s, LATER_S)

    def token_due_s(self, lengths: Lengths, pace_s: float) -> float:
        """When the next output token is due, once there was a first one."""
        live = self.live
        due_s = inf
        if self.tpot_s < inf:
            due_s = self.schedule_from_s(lengths) + live.output_tokens * self.tpot_s
        if self.deadline_s < inf:
            left = lengths.remaining(live.request, live.output_tokens)
            due_s = min(due_s, self.deadline_s - (left - 1) * pace_s)
        return due_s

    def schedule_from_s(self, lengths: Lengths) -> float:
        """From when the time per token counts: the first token, or later by the lag allowed.

        By the cumulative rule an early first token pays for later stalls. By the mean rule a decode
        must be on schedule when it ends, so it may lag only while more tokens are sure to come.
        """
        live = self.live
        first_s = live.first_token_s
        assert first_s is not None
        sure = lengths.sure(live.request, live.output_tokens)
        if sure < 2:
            self.base_s = first_s  # from now on
            return first_s
        early_s = max(0.0, live.arrival_s + self.ttft_s - first_s)
        return first_s + min(early_s, SURE_PART * (sure - 1) * self.tpot_s * (1 - RUN_RATE))

    def _prompt_due_s(self, lengths: Lengths, pace_s: float) -> float:
        live = self.live
        due_s = live.arrival_s + self.ttft_s
        if self.deadline_s < inf:
            left_s = lengths.remaining(live.request, 0) * pace_s
            due_s = min(due_s, max(self.deadline_s - left_s, live.arrival_s))
        return due_s
