"""The multi-SLO step scheduler: each iteration as long as the promises of live decodes allow.

Every obligation is a pair of work and due time, both in seconds: a prompt is due at arrival + TTFT,
an output token when its rule says. Decodes veto an iteration that would make them late; what is
left of it goes to prompts in order of due time, cut by cost. Prompts with time to spare take small
chunks, so that streams beside them hardly notice; the more the queue presses, the longer the
iterations, up to the veto. Promises that can't be kept are served from spare capacity.
"""

from collections.abc import Callable, Iterable
from heapq import heappop, heappush
from math import inf

from hfx.cost import CostModel
from hfx.request import FinishReason, Plan, Request

from .draft import Draft
from .lengths import Lengths
from .policy import Live, Snapshot, as_it_is
from .prices import efficient_s, fixed_s
from .queue import Queue
from .track import Relegated, Track, Tracks

PACE_MEMORY = 0.05  # of the mean length of steps: the weight of the last one
PACE_ROOM = 1.25  # times a step of decodes: the pace that a deadline's output is given
FORECAST_S = 20.0  # over which the prompt work that arrives is averaged
LENGTHS_MEMORY = 0.02  # of the mean prompt and output: the weight of the last one
REPRICED = 64  # steps after which fixed prices are asked for again: the model corrects itself


class SlackPolicy:
    """Keeps many promises side by side on one replica. Prices come from `cost`, which may change.

    It remembers what it saw: the same snapshots in the same order give the same plans.

    Raises:
        ValueError: a limit is below 1, or a step could not advance every running request.
    """

    def __init__(
        self,
        cost: CostModel,
        *,
        max_step_tokens: int = 2048,
        max_running: int = 256,
        tile_tokens: int = 16,
    ) -> None:
        if min(max_running, tile_tokens) < 1 or max_step_tokens < max_running:
            raise ValueError(
                f"max_running is {max_running}, tile_tokens {tile_tokens}, max_step_tokens "
                f"{max_step_tokens}: each must be at least 1, the last at least max_running, for a "
                "token of every running request"
            )
        self.cost = cost
        self.lengths = Lengths()
        self.max_step_tokens = max_step_tokens
        self.max_running = max_running
        self.tile_tokens = tile_tokens
        self.queue = Queue(self._enter)
        self.pace_s = 0.0  # the mean length of a step
        self.least_s = 0.0  # what the last step's decodes cost
        self.fixed_s = 0.0  # what a step costs before its first decode
        self.efficient_s = inf  # the longest step that wastes nothing, for traffic as it is
        self.prompt_tokens = self.output_tokens = 0.0  # of a request here, on average
        self.arriving = 0.0  # promised prompt work per second, on average of what was computed
        self.tightest_ttft_s = inf  # of all promises so far
        self.owed_s = 0.0  # prompt time that spare work has a right to
        self.sitting: list[Track] = []  # decodes that sat the last step out
        self.tracks = Tracks(self._new)
        self._ids: dict[str, Track] = {}
        self._hard: list[tuple[float, str]] = []
        self._relegated = Relegated()
        self._refresh: Callable[[Live], None] = as_it_is
        self._last_s: float | None = None
        self._steps = 0

    def plan(self, snapshot: Snapshot) -> Plan:
        """See `hfx.scheduler.StepPolicy.plan`."""
        self._tick(snapshot.now_s)
        self._refresh = snapshot.refresh
        self.queue.sync(snapshot.waiting)
        expired = self._expired(snapshot.now_s)
        running = snapshot.running
        if expired:
            running = [live for live in running if live.request.id not in expired]
        fill = Draft(self, snapshot, running).draw()
        for live in fill.started:
            self.queue.leave(live)
        self._last_s = snapshot.now_s if fill.tokens else None
        return Plan(fill.tokens, tuple(fill.preempted.values()), expired, self._relegated.ids)

    def ended(self, request: Request, output_tokens: int, reason: FinishReason) -> None:
        """Learn how long the outputs of its tier become."""
        track = self._ids.pop(request.id, None)
        if track is not None:
            del self.tracks[track.live]
            self.queue.leave(track.live)
            track.relegate(False)
            self._average(track, output_tokens)
        if reason in (FinishReason.STOP, FinishReason.LENGTH):
            self.lengths.learn(request, output_tokens)

    def repeated(self, times_s: Iterable[float], least_s: float) -> None:
        """Learn that the last plan, of decodes only, was carried out again at each of some times.

        `least_s` is the price of the last of these steps. For those who know that the plan would
        have been drawn up again and again, as a simulator may.
        """
        before = self._steps
        for now_s in times_s:
            self._pass(now_s)
            self._last_s = now_s
        if -(-before // REPRICED) * REPRICED < self._steps:  # nobody came or went meanwhile
            self._reprice()
        self.least_s = least_s

    def computed(self, track: Track) -> None:
        """A prompt's last chunk is in the step: what it cost says how much comes per second."""
        self.arriving += track.whole_s / FORECAST_S
        track.whole_s = 0.0

    def _average(self, track: Track, output_tokens: int) -> None:
        """Take in how much of a request was computed here."""
        if output_tokens > track.outputs_before:
            prompt = 0 if track.outputs_before else track.live.request.prompt_tokens
            self.prompt_tokens += LENGTHS_MEMORY * (prompt - self.prompt_tokens)
            more = output_tokens - track.outputs_before
            self.output_tokens += LENGTHS_MEMORY * (more - self.output_tokens)

    def _enter(self, live: Live) -> Track:
        """A request comes to wait, for the first time or because it was preempted."""
        track = self.tracks[live]
        self._refresh(live)
        track.work_s = self.cost.prompt_s(live.wanted_tokens, live.cached_tokens)
        if live.preemptions:
            track.wait_again(self.lengths, self.pace_s)
        elif track.due_s < inf:
            track.whole_s = track.work_s
            self.tightest_ttft_s = min(self.tightest_ttft_s, track.ttft_s)
        return track

    def _new(self, live: Live) -> Track:
        """The track of a request that is seen for the first time, or as another object."""
        old = self._ids.get(live.request.id)
        best_s = self.fixed_s
        pace_s = min(max(self.least_s, best_s) * PACE_ROOM, max(self.pace_s, best_s))
        track = Track(live, self.lengths, pace_s, best_s, self._relegated)
        self.lengths.hear(live.request)
        if old is None:
            self._watch(track)
        else:
            del self.tracks[old.live]
            track.is_relegated, track.evicted = old.is_relegated, old.evicted
            track.whole_s, track.outputs_before = old.whole_s, old.outputs_before
        self._ids[track.id] = track
        return track

    def _watch(self, track: Track) -> None:
        if track.live.request.objective.on_miss == "refuse" and track.deadline_s < inf:
            heappush(self._hard, (track.deadline_s, track.id))

    def _expired(self, now_s: float) -> tuple[str, ...]:
        """Live requests whose hard deadline has passed; they are out of every plan from now on."""
        ids = []
        while self._hard and self._hard[0][0] < now_s:
            track = self._ids.get(heappop(self._hard)[1])
            if track is not None:
                self.queue.leave(track.live)
                track.relegate(False)
                ids.append(track.id)
        return tuple(ids)

    def _tick(self, now_s: float) -> None:
        if self._steps % REPRICED == 0:
            self._reprice()
        self._pass(now_s)

    def _reprice(self) -> None:
        self.fixed_s = fixed_s(self.cost)
        outputs = self.output_tokens / self.prompt_tokens if self.prompt_tokens else 0.0
        context = int(self.prompt_tokens + self.output_tokens / 2)
        self.efficient_s = efficient_s(self.cost, outputs, context, self.max_step_tokens)

    def _pass(self, now_s: float) -> None:
        """A step begins: averages of time move on."""
        self._steps += 1
        if self._last_s is None or now_s <= self._last_s:
            return
        took_s = now_s - self._last_s
        self.arriving *= max(0.0, 1 - took_s / FORECAST_S)
        self.pace_s += (took_s - self.pace_s) * (PACE_MEMORY if self.pace_s else 1.0)
