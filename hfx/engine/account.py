"""Where a request's seconds went: every moment from its arrival on is put down to one cause.

Seconds throughout. A step is the device's time and the host's; of the device's, a request's own
share is what its own work would take alone by the cost model's prices, and the rest is others'.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from hfx.request import Mix, Objective
from hfx.scheduler import Live

from .forecast import Outlook

Price = Callable[[Mix], float]  # seconds, or anything in proportion to them


@dataclass(slots=True)
class Spent:
    """Seconds by cause.

    `queue_s` it waited for its turn, `kv_s` for blocks of the cache, `preemption_s` it waited and
    recomputed because its blocks were taken; `prompt_s` and `decode_s` are its own steps, decodes
    of others included, `interference_s` is what others' work added to them, `host_s` the rest:
    tokenising, planning, packing, sampling, delivering.
    """

    queue_s: float = 0.0
    prompt_s: float = 0.0
    decode_s: float = 0.0
    interference_s: float = 0.0
    preemption_s: float = 0.0
    kv_s: float = 0.0
    host_s: float = 0.0

    @property
    def total_s(self) -> float:
        """All of them."""
        return (
            self.queue_s
            + self.prompt_s
            + self.decode_s
            + self.interference_s
            + self.preemption_s
            + self.kv_s
            + self.host_s
        )


@dataclass(slots=True)
class Account:
    """One request's seconds, up to its first token and after it, and how its promise fared.

    `outlook` is what was predicted on its arrival; `late_s` is the worst distance of a token from
    when it was due by the cumulative rule, negative while all were early, None without a rule.
    """

    objective: Objective
    outlook: Outlook | None = None
    first: Spent = field(default_factory=Spent)
    later: Spent = field(default_factory=Spent)
    has_run: bool = False
    was_relegated: bool = False
    late_s: float | None = None
    until_s: float = 0.0  # all before is put down
    redo_tokens: int = 0  # computed before it was preempted
    short_mark_s: float = 0.0  # `Meter.short_s` and `dry_s` at `until_s`
    dry_mark_s: float = 0.0

    def spent(self, live: Live) -> Spent:
        """What the present moment belongs to."""
        return self.first if live.first_token_s is None else self.later

    def token(self, live: Live) -> None:
        """A token has come: how late is it by the cumulative rule?

        Token n is due at arrival + TTFT + (n - 1) TPOT; without TTFT, (n - 1) TPOT after the first
        token, and without TPOT only the first token is due.
        """
        objective, now_s, first_s = self.objective, live.last_token_s, live.first_token_s
        if objective.tpot_s is None and (objective.ttft_s is None or live.output_tokens > 1):
            return
        assert now_s is not None and first_s is not None
        due_s = first_s if objective.ttft_s is None else live.arrival_s + objective.ttft_s
        if objective.tpot_s is not None:
            due_s += (live.output_tokens - 1) * objective.tpot_s
        late_s = now_s - due_s
        if self.late_s is None or late_s > self.late_s:
            self.late_s = late_s


class Meter:
    """Puts the time of an engine's steps down to the requests in them; for its thread only.

    `short_s` is how long the first waiting request could not have had its blocks, `dry_s` how long
    there was no free block at all: a request that waits remembers both as they were.
    """

    def __init__(self, price: Price | None) -> None:
        self._price = price or _tokens
        self.short_s = 0.0
        self.dry_s = 0.0
        self._ended_s = 0.0  # the last step
        self._passed_s = 0.0  # until when `short_s` and `dry_s` count
        self._is_short = self._is_dry = False

    def open(self, objective: Objective, arrival_s: float, heard_s: float) -> Account:
        """The account of a request that arrived, and later came to the engine."""
        account = Account(objective)
        account.first.host_s = max(0.0, heard_s - arrival_s)
        self._mark(account, heard_s)
        return account

    def wait(self, account: Account, live: Live, until_s: float) -> None:
        """Put down the time since `until_s` of a request that was in no step."""
        waited_s = until_s - account.until_s
        short_s, dry_s = self.marks_s(until_s)
        spent = account.spent(live)
        if account.redo_tokens > live.cached_tokens:
            spent.preemption_s += waited_s
        elif account.has_run:  # it still holds blocks, and was left out of steps
            self._split(spent, waited_s, dry_s - account.dry_mark_s)
        else:
            self._split(spent, waited_s, short_s - account.short_mark_s)
        self._mark(account, until_s)

    @staticmethod
    def _split(spent: Spent, waited_s: float, kv_s: float) -> None:
        kv_s = min(kv_s, waited_s)
        spent.kv_s += kv_s
        spent.queue_s += waited_s - kv_s

    def step(self, mix: Mix, started_s: float, device_s: float, now_s: float) -> StepShare:
        """Begin to put down a step that did `mix`: the shares of those in it.

        `started_s` is before it was planned, `device_s` the executor's part.
        """
        share = StepShare(self, mix, started_s, device_s, now_s)
        self._ended_s = now_s
        return share

    def stand(self, now_s: float, *, short: bool, dry: bool) -> None:
        """From now on blocks are short, or there is none."""
        self.short_s, self.dry_s = self.marks_s(now_s)
        self._passed_s = now_s
        self._is_short, self._is_dry = short, dry

    def marks_s(self, now_s: float) -> tuple[float, float]:
        """`short_s` and `dry_s` as they will be at some time, if nothing changes until then."""
        seconds = max(0.0, now_s - self._passed_s)
        return self.short_s + seconds * self._is_short, self.dry_s + seconds * self._is_dry

    def _mark(self, account: Account, now_s: float) -> None:
        account.until_s = now_s
        account.short_mark_s, account.dry_mark_s = self.marks_s(now_s)


class StepShare:
    """One step's time as each request in it bears it."""

    def __init__(
        self, meter: Meter, mix: Mix, started_s: float, device_s: float, now_s: float
    ) -> None:
        self._meter = meter
        self._before_s = meter._ended_s
        self._started_s = started_s
        self._now_s = now_s
        self._device_s = device_s
        self._whole = meter._price(mix)
        self._decode_s = self._own_s(_decodes_of(mix)) if mix.decodes else 0.0
        self._beside_s = device_s - self._decode_s
        self._host_s = now_s - meter._ended_s - device_s
        self._marks_s = meter.marks_s(now_s)

    def bear(self, account: Account, live: Live, count: int) -> None:
        """Put the step down for a request that computed `count` tokens; not yet told its token."""
        if account.until_s == self._before_s and live.is_decoding:  # as most are, most of the time
            spent = account.later
            spent.decode_s += self._decode_s
            spent.interference_s += self._beside_s
            spent.host_s += self._host_s
        else:
            self._bear_more(account, live, count)
        account.until_s = self._now_s
        account.short_mark_s, account.dry_mark_s = self._marks_s

    def _bear_more(self, account: Account, live: Live, count: int) -> None:
        """The same for a prompt's chunk, and for what was not in the last step."""
        if account.until_s != self._before_s:
            self._meter.wait(account, live, self._started_s)
        spent = account.spent(live)
        spent.host_s += self._now_s - account.until_s - self._device_s
        own_s = self._decode_s if live.is_decoding else self._chunk_s(live, count)
        spent.interference_s += self._device_s - own_s
        if live.is_decoding:
            spent.decode_s += own_s
        elif live.cached_tokens < account.redo_tokens:
            spent.preemption_s += own_s
        else:
            spent.prompt_s += own_s
        account.has_run = True

    def _chunk_s(self, live: Live, count: int) -> float:
        return self._own_s(Mix.one(count, live.cached_tokens))

    def _own_s(self, mix: Mix) -> float:
        alone = self._meter._price(mix)
        return self._device_s * min(1.0, alone / self._whole) if self._whole > 0 else 0.0


def is_promise(objective: Objective) -> bool:
    """Whether it promises anything."""
    targets = (objective.ttft_s, objective.tpot_s, objective.deadline_s)
    return any(target is not None for target in targets)


def _decodes_of(mix: Mix) -> Mix:
    return Mix(
        decodes=mix.decodes,
        decode_context_tokens=mix.decode_context_tokens,
        decode_context_squares=mix.decode_context_squares,
    )


def _tokens(mix: Mix) -> float:
    """Without prices, every token costs the same."""
    return float(mix.tokens)
