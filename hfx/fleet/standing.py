"""The dispatcher's view of one replica: from its snapshots and events, and between them from the
cost model. Seconds on the parent's clock, tokens, blocks."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import replace
from statistics import median

from hfx.cost import Piece, StepCost
from hfx.cost import Regime as Priced
from hfx.cost.fitting import scaled
from hfx.cost.step import Key
from hfx.request import Mix, Request
from hfx.scheduler.dispatch_view import ReplicaView

from .flight import Flight
from .messages import State
from .prefixes import Remembered, names_of

MOST_STEPS = 32  # looked ahead without news; then the replica is taken to be where it was
RECENT_STEPS = 15  # whose median tells a sudden change
SUDDEN = 1.4  # times what was predicted
CHANGED = 0.03  # prices that differ by less are not exchanged
_NOMINAL = Priced(
    knots_tokens=(0.0,), curve_s=(0.01,), per_token_s=1e-4, pieces=(Piece(),), upper_factor=1.5
)
UNPRICED = StepCost(
    key=Key(device="unknown", model="unknown", dtype="unknown"), decode=_NOMINAL, mixed=_NOMINAL
)


class Standing:
    """What is known of a replica that takes requests.

    `profile` is its own cost model as it started, None where it has no prices; `view` is what the
    dispatcher reads, and changes by the methods here only. `flight_of` finds a live request.
    """

    def __init__(
        self,
        replica_id: int,
        profile: StepCost | None,
        total_blocks: int,
        block_tokens: int,
        *,
        max_step_tokens: int,
        prefix_caching: bool,
        now_s: float,
        flight_of: Callable[[str], Flight | None] = lambda _: None,
    ) -> None:
        self.profile = profile
        self.flights: dict[int, Flight] = {}
        self._prompts: dict[int, Flight] = {}  # of them, those that do not decode yet
        self._running: list[Flight] = []
        self._flight_of = flight_of
        self._max_step_tokens = max_step_tokens
        self._factors = (1.0, 1.0)
        self._ratios: deque[float] = deque(maxlen=RECENT_STEPS)  # of times to predictions
        self._known = Remembered(total_blocks if prefix_caching else 0, block_tokens)
        self._at_s = now_s  # what is known is as of then
        self.cost = profile or UNPRICED
        self.view = ReplicaView(
            replica_id,
            self.cost,
            total_blocks,
            block_tokens,
            free_blocks=total_blocks,
            running=[],
            waiting=[],
            hit_tokens=self._hit_tokens,
            advance=self.advance,
        )

    # Requests that come and go

    def bind(self, flight: Flight) -> None:
        """It is sent there."""
        self.flights[flight.number] = self._prompts[flight.number] = flight
        flight.is_running = False
        live = flight.live
        live.cached_tokens = live.held_blocks = 0
        if not flight.output:
            live.cached_tokens = self._hit_tokens(live.request)
        self._known.touch(self._names(flight))
        self._lives()
        if len(self.flights) == 1:  # it begins at once
            self._at_s = self.view.boundary_s = max(self._at_s, self.view.boundary_s)

    def release(self, flight: Flight) -> None:
        """It is there no more; its blocks are free again."""
        del self.flights[flight.number]
        self._prompts.pop(flight.number, None)
        if flight.is_running:
            self._running.remove(flight)
        live, view = flight.live, self.view
        if flight.is_running:
            held = -(-live.known_tokens // view.block_tokens)
            view.free_blocks = min(view.total_blocks, view.free_blocks + held)
        live.cached_tokens = live.held_blocks = 0
        flight.is_running = False
        self._lives()

    def leaves(self, flight: Flight, *, is_leaving: bool) -> None:
        """It was asked back, or stays after all; meanwhile it does not count as waiting there."""
        flight.is_leaving = is_leaving
        self._lives()

    def decodes(self, flight: Flight) -> None:
        """Its first token here has come. How its blocks grow from now on, snapshots tell."""
        if self._prompts.pop(flight.number, None) is not None:
            self._run(flight)
            self._hold(flight)
            self._lives()

    def began(self, flight: Flight, hit_tokens: int) -> None:
        """It has found so much of its prompt in the cache."""
        names = self._names(flight)
        self._known.correct(names, hit_tokens)
        self._known.touch(names)

    # What the replica says, and what the cost model says in between

    def apply(self, state: State, heard: int) -> None:
        """A snapshot, taken when the orders up to `heard` had been obeyed."""
        self.view.free_blocks = state.free_blocks
        partial = dict(state.partial)
        for number in state.queued:
            flight = self.flights.get(number)
            if flight is not None and flight.is_running:
                flight.is_running = False
                self._running.remove(flight)
                self._prompts[number] = flight
                flight.live.cached_tokens = flight.live.held_blocks = 0
        queued = set(state.queued)
        for number, flight in list(self._prompts.items()):
            if flight.order > heard or number in queued:
                continue
            live = flight.live
            live.cached_tokens = min(partial.get(number, live.known_tokens), live.known_tokens - 1)
            self._run(flight)
            self._hold(flight, is_counted=True)
        self._at_s = max(self._at_s, state.now_s)
        self._lives()
        self._price(state)

    def stepped(self, at_s: float) -> None:
        """A step has ended then, by the tokens that came of it."""
        if at_s > self._at_s:
            if self._prompts:
                self.advance(at_s)
            self._at_s = self.view.boundary_s = at_s

    def advance(self, now_s: float) -> None:
        """Bring the view up to a time, by what its steps take. See `ReplicaView.advance`."""
        view = self.view
        if now_s < view.boundary_s or not self.flights:
            self._at_s = max(self._at_s, now_s) if not self.flights else self._at_s
            return
        has_moved = False
        for _ in range(MOST_STEPS):
            chunks = self._chunks()
            mix = self._decodes() + sum((c for _, _, c in chunks), start=Mix())
            if not mix.tokens:
                break
            step_s = self.cost.step_s(mix).mean_s
            if not chunks and step_s > 0:  # decodes alone: their tokens are told by events
                passed = int(max(0.0, now_s - self._at_s) / step_s)
                self._at_s += passed * step_s
            view.boundary_s = self._at_s + step_s
            if view.boundary_s > now_s or not chunks:
                break
            self._compute(chunks)
            has_moved = True
            self._at_s = view.boundary_s
        else:
            self._at_s = view.boundary_s = now_s
        if has_moved:
            self._lives()

    def _decodes(self) -> Mix:
        count = context = squares = 0
        for flight in self._running:
            live = flight.live
            if live.known_tokens - live.cached_tokens == 1:
                count += 1
                context += live.known_tokens
                squares += live.known_tokens * live.known_tokens
        return Mix(count, context, decode_context_squares=squares) if count else Mix()

    def _chunks(self) -> list[tuple[Flight, int, Mix]]:
        """The prompts' share of the next step, in order of arrival: flight, tokens, mix."""
        room = self._max_step_tokens - len(self._running)
        found = []
        for flight in self._prompts.values():
            live = flight.live
            wanted = live.known_tokens - live.cached_tokens
            if wanted <= 1 and flight.is_running:
                continue
            if room <= 0:
                break
            take = min(wanted, room)
            room -= take
            found.append((flight, take, Mix.one(take, live.cached_tokens)))
        return found

    def _compute(self, chunks: list[tuple[Flight, int, Mix]]) -> None:
        for flight, tokens, _ in chunks:
            live = flight.live
            live.cached_tokens = min(live.cached_tokens + tokens, live.known_tokens - 1)
            self._run(flight)
            self._hold(flight)

    def _run(self, flight: Flight) -> None:
        if not flight.is_running:
            flight.is_running = True
            self._running.append(flight)

    def _hold(self, flight: Flight, *, is_counted: bool = False) -> None:
        """Blocks for its tokens so far, taken from the free ones unless a snapshot has done so."""
        live = flight.live
        blocks = -(-(live.cached_tokens + 1) // self.view.block_tokens)
        if blocks > live.held_blocks:
            if not is_counted:
                more = blocks - live.held_blocks
                self.view.free_blocks = max(0, self.view.free_blocks - more)
            live.held_blocks = blocks

    def _lives(self) -> None:
        """Show the dispatcher who runs and who waits."""
        view = self.view
        view.running = [flight.live for flight in self._running]
        view.waiting = [
            f.live for f in self._prompts.values() if not f.is_running and not f.is_leaving
        ]
        view.prompt_tokens = sum(f.live.wanted_tokens for f in self._prompts.values())

    # Prices and prefixes

    @property
    def factor(self) -> float:
        """How much longer steps take than the profile says: the larger of both regimes'."""
        return max(self._factors)

    def _price(self, state: State) -> None:
        """Take over the replica's own corrections, where they have changed.

        They follow a device that is suddenly another one within some dozen steps, as outliers must
        not move them; the median of the last few steps says it at once.
        """
        decode, mixed = state.decode, state.mixed
        if self.profile is None or decode is None or mixed is None:
            return
        self._ratios.extend(
            row.duration_s / row.predicted[0] for row in state.rows if row.predicted is not None
        )
        sudden = median(self._ratios) if len(self._ratios) == RECENT_STEPS else 1.0
        if 1 / SUDDEN < sudden < SUDDEN:
            sudden = 1.0
        factors = decode.factor * sudden, mixed.factor * sudden
        moved = max(abs(new / old - 1) for new, old in zip(factors, self._factors, strict=True))
        if moved < CHANGED:
            return
        self._factors = factors
        self.cost = self.view.cost = replace(
            self.profile,
            decode=scaled(self.profile.decode, factors[0], max(1.0, decode.bound)),
            mixed=scaled(self.profile.mixed, factors[1], max(1.0, mixed.bound)),
        )

    def _names(self, flight: Flight) -> list[bytes]:
        size = self.view.block_tokens
        if size not in flight.names:
            flight.names[size] = names_of(flight.request, size)
        return flight.names[size]

    def _hit_tokens(self, request: Request) -> int:
        if not len(self._known):
            return 0
        flight = self._flight_of(request.id)
        names = self._names(flight) if flight else names_of(request, self.view.block_tokens)
        return self._known.hit_tokens(names, request.prompt_tokens)
