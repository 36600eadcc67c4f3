"""The multi-SLO step scheduler: each iteration as long as the promises of live decodes allow.

Every obligation is a pair of work and due time, both in seconds: a prompt is due at arrival + TTFT,
an output token when its rule says. Decodes veto an iteration that would make them late; what is
left of it goes to prompts in order of due time, cut by cost. Prompts with time to spare take small
chunks, so that streams beside them hardly notice; the more the queue presses, the longer the
iterations, up to the veto. Promises that can't be kept are served from spare capacity.
"""

from collections.abc import Iterable
from itertools import islice
from math import inf

from hfx.cost import CostModel
from hfx.request import FinishReason, Mix, Plan, Request

from .fill import Fill
from .lengths import Lengths
from .policy import Live, Snapshot
from .queue import Queue, by_due, by_order
from .select import Selection, Supply, select
from .track import Track

SPEND = 0.9  # of the slack that one iteration may use
RUN_RATE = 0.9  # of TPOT: an iteration that long never leaves a decode farther behind
HURRY = 3.0  # times the share of time that would just keep the promises: prompts end that early
LOOKED_AT = 128  # promised prompts that a step considers, in order of due time
RESERVE = 0.05  # of the time for prompts: what spare work gets however much else presses
LEAST_SHARE = 0.05  # of the time for prompts, even where decodes take it all
FILLED = 0.97  # of the time: decodes may promise that much
MOST_CHUNKS = 16  # prompts in a step
LONGEST_OF_TTFT = 0.3  # of the tightest TTFT: so long may a request that arrives be kept waiting
LONGEST_OF_DECODE = 10.0  # times a step of decodes: then its fixed cost is amortised
PACE_MEMORY = 0.05  # of the mean length of steps: the weight of the last one
FORECAST_S = 20.0  # over which arriving prompt work is averaged


class SlackPolicy:
    """Keeps many promises side by side on one replica. Prices come from `cost`, which may change.

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
        lengths: Lengths | None = None,
    ) -> None:
        if min(max_running, tile_tokens) < 1 or max_step_tokens < max_running:
            raise ValueError(
                f"max_running is {max_running}, tile_tokens {tile_tokens}, max_step_tokens "
                f"{max_step_tokens}: each at least 1, the last at least max_running"
            )
        self.cost = cost
        self.lengths = lengths or Lengths()
        self.max_step_tokens = max_step_tokens
        self.max_running = max_running
        self.tile_tokens = tile_tokens
        self.queue = Queue(self._enter)
        self.tracks: dict[str, Track] = {}
        self.pace_s = 0.0  # the mean length of a step
        self.owed_s = 0.0  # prompt time that spare work has a right to
        self.tightest_ttft_s = inf
        self.arriving = 0.0  # promised prompt work per second, on average
        self._last_s: float | None = None
        self._now_s = 0.0
        self._snapshot: Snapshot | None = None

    def plan(self, snapshot: Snapshot) -> Plan:
        """See `hfx.scheduler.StepPolicy.plan`."""
        self._now_s, self._snapshot = snapshot.now_s, snapshot
        self._tick(snapshot.now_s)
        self.queue.sync(snapshot.waiting)
        step = Step(self, snapshot)
        plan = step.plan()
        self._last_s = snapshot.now_s if plan.tokens else None
        return plan

    def ended(self, request: Request, output_tokens: int, reason: FinishReason) -> None:
        """Learn how long the outputs of its tier become."""
        self.tracks.pop(request.id, None)
        if reason in (FinishReason.STOP, FinishReason.LENGTH):
            self.lengths.learn(request, output_tokens)

    def track(self, live: Live) -> Track:
        """What is remembered of a request."""
        track = self.tracks.get(live.request.id)
        if track is None or track.live is not live:
            track = self._new(live)
        return track

    def prompt_s(self, tokens: int, history_tokens: int) -> float:
        """What computing that many prompt tokens adds to steps that run anyway."""
        cost = self.cost
        whole_s = cost.step_s(Mix.one(max(tokens, 2), history_tokens)).mean_s
        return whole_s - cost.step_s(Mix.one(1, 0)).mean_s

    def _new(self, live: Live) -> Track:
        track = Track(live, self.lengths, self.pace_s)
        old = self.tracks.get(live.request.id)
        if old is not None:
            track.is_relegated = old.is_relegated
        self.tracks[live.request.id] = track
        return track

    def _enter(self, live: Live) -> Track:
        """A request comes to wait, for the first time or because it was preempted."""
        assert self._snapshot is not None
        self._snapshot.refresh(live)
        track = self.track(live)
        track.work_s = self.prompt_s(live.wanted_tokens, live.cached_tokens)
        if live.output_tokens:
            track.due_s = track.token_due_s(self.lengths, self.pace_s)
        elif track.due_s < inf:
            self.arriving += track.work_s / FORECAST_S
            ttft_s = live.request.objective.ttft_s
            if ttft_s is not None and ttft_s < self.tightest_ttft_s:
                self.tightest_ttft_s = ttft_s
        return track

    def _tick(self, now_s: float) -> None:
        if self._last_s is None:
            return
        took_s = now_s - self._last_s
        self.arriving *= max(0.0, 1 - took_s / FORECAST_S)
        if took_s > 0:
            self.pace_s += (took_s - self.pace_s) * (PACE_MEMORY if self.pace_s else 1.0)


class Step:
    """One plan while it is drawn up."""

    def __init__(self, policy: SlackPolicy, snapshot: Snapshot) -> None:
        self.policy = policy
        self.snapshot = snapshot
        self.now_s = snapshot.now_s
        self.cost = policy.cost
        self.fill = Fill(snapshot, self._ranked)
        self.decodes: list[tuple[float, Live, Track]] = []  # (slack, ...)
        self.prompts: list[Track] = []
        self.cap_s = inf  # no decode allows a longer step
        self.slack_s = inf  # the least of live decodes
        self.tightest_s = inf  # the least TPOT of live decodes
        self.token_rate = 0.0  # promised decodes per second
        self.mix = Mix()

    def plan(self) -> Plan:
        self._scan()
        base_s = self._decode_s()
        self._decode(base_s)
        self._prompts(base_s)
        relegated = frozenset(id for id, track in self.policy.tracks.items() if track.is_relegated)
        plan = self.fill.plan()
        return Plan(plan.tokens, plan.preempt, (), relegated)

    # ---- running requests

    def _scan(self) -> None:
        """Sort running requests into decodes and prompts, and find how long a step may be."""
        policy, now_s = self.policy, self.now_s
        tracks, lengths = policy.tracks, policy.lengths
        decodes = self.decodes
        context = squares = 0
        cap_s = least_s = tightest_s = inf
        rate = 0.0
        for live in self.snapshot.running:
            track = tracks.get(live.request.id) or policy.track(live)
            known = live.known_tokens
            if not live.output_tokens or known - live.cached_tokens != 1:
                self.prompts.append(track)
                continue
            context += known
            squares += known * known
            tpot_s = track.tpot_s
            if tpot_s and track.deadline_s == inf:
                slack_s = live.first_token_s + live.output_tokens * tpot_s - now_s
                if slack_s < 0 or track.is_relegated:
                    self._judge(track, slack_s)
                if not track.is_relegated:
                    if tpot_s < tightest_s:
                        tightest_s = tpot_s
                    if slack_s < least_s:
                        least_s = slack_s
                    rate += 1 / tpot_s
                    allowed_s = slack_s * SPEND
                    if allowed_s < tpot_s * RUN_RATE:
                        allowed_s = tpot_s * RUN_RATE
                    if allowed_s < cap_s:
                        cap_s = allowed_s
            elif track.deadline_s < inf:
                slack_s = track.token_due_s(lengths, policy.pace_s) - now_s
                if not track.is_relegated:
                    if track.deadline_s < now_s:
                        track.is_relegated = True
                    left = lengths.remaining(live.request, live.output_tokens)
                    every_s = (track.deadline_s - now_s) / left
                    rate += 1 / max(every_s, policy.pace_s, 1e-3)
                    cap_s = min(cap_s, max(slack_s * SPEND, every_s * RUN_RATE, 2 * policy.pace_s))
                    least_s = min(least_s, max(slack_s, 0.0))
            else:
                slack_s = inf
            decodes.append((slack_s, live, track))
        self.cap_s, self.slack_s, self.tightest_s = cap_s, least_s, tightest_s
        self.token_rate = rate
        if decodes:
            self.mix = Mix(len(decodes), context, decode_context_squares=squares)

    def _judge(self, track: Track, slack_s: float) -> None:
        """Whether a decode that is late can still be on time at its end."""
        live = track.live
        left = self.policy.lengths.remaining(live.request, live.output_tokens)
        gain_s = track.tpot_s - self.policy.pace_s * 0.8
        lost = -slack_s > max(left * max(gain_s, 0.1 * track.tpot_s), 2 * track.tpot_s)
        track.is_relegated = lost and live.request.objective.may_relegate

    def _decode_s(self) -> float:
        return self.cost.step_s(self.mix).upper_s if self.decodes else 0.0

    def _decode(self, base_s: float) -> None:
        """Grant decodes their token, but for those that can wait while a tighter one can't."""
        chosen = self.decodes
        if base_s > self.cap_s:
            chosen = self._urgent(chosen)
        fill = self.fill
        if fill.free > len(chosen):  # no decode takes more than one block
            self._grant_all(chosen)
            return
        for slack_s, live, track in sorted(chosen, key=lambda item: (item[0], item[2].order)):
            if live.request.id not in fill.preempted:
                fill.advance(live, 1)
        self._remix(chosen)

    def _grant_all(self, chosen: list[tuple[float, Live, Track]]) -> None:
        fill = self.fill
        blocks = self.snapshot.blocks
        size = blocks.block_tokens
        tokens = fill.tokens
        taken = 0
        for _, live, _ in chosen:
            tokens[live.request.id] = 1
            if live.cached_tokens + 1 > live.held_blocks * size:
                taken += 1
        fill.free -= taken
        fill.granted_tokens += len(chosen)

    def _urgent(self, decodes: list[tuple[float, Live, Track]]) -> list[tuple[float, Live, Track]]:
        """Leave out decodes that can wait, those with most slack first, until the rest is in time."""
        ordered = sorted(decodes, key=lambda item: (item[0], item[2].order))
        mix = self.mix
        wait_s = 2 * self.cap_s
        while len(ordered) > 1:
            slack_s, live, track = ordered[-1]
            if track.skipped >= 8 or slack_s < wait_s:
                break
            if self.cost.step_s(mix).upper_s <= self.cap_s:
                break
            mix = mix - Mix.one(1, live.known_tokens - 1)
            ordered.pop()
        kept = {id(item[1]) for item in ordered}
        for _, live, track in decodes:
            track.skipped = 0 if id(live) in kept else track.skipped + 1
        self.mix = mix
        return ordered

    def _remix(self, chosen: list[tuple[float, Live, Track]]) -> None:
        tokens = self.fill.tokens
        self.mix = Mix.of(
            (1, live.known_tokens - 1) for _, live, _ in chosen if live.request.id in tokens
        )

    # ---- prompts

    def _prompts(self, base_s: float) -> None:
        policy = self.policy
        for track in self.prompts:
            live = track.live
            track.work_s = policy.prompt_s(live.wanted_tokens, live.cached_tokens)
        supply = self._supply(base_s)
        chosen = self._select(supply)
        spare = self._spare()
        target_s = self._target_s(base_s, chosen, supply, bool(spare))
        if spare and policy.owed_s > spare[0].work_s * 0.0 + 0.02:
            self._serve(spare[:1], min(target_s, self.mix_s() + policy.owed_s), spare=True)
        before_s = self.mix_s()
        self._serve([*chosen.kept, *chosen.put_off], target_s)
        policy.owed_s = (
            min(policy.owed_s + RESERVE * (self.mix_s() - before_s), 1.0) if spare else 0.0
        )
        self._serve(spare, target_s, spare=True)
        if not self.fill.tokens:
            self._at_least([*chosen.kept, *chosen.put_off, *spare])

    def mix_s(self) -> float:
        return self.cost.step_s(self.mix).mean_s

    def _supply(self, base_s: float) -> Supply:
        longest_s = self._longest_s(base_s)
        if not self.decodes or self.cap_s == inf:
            floor_s = base_s or self.cost.step_s(Mix.one(1, 0)).mean_s
            return Supply(self.now_s, max(1 - floor_s / longest_s, 0.5), 0.0)
        run_s = min(self.tightest_s * RUN_RATE, longest_s)
        if run_s == inf:
            run_s = self.cap_s
        share = max(1 - base_s / run_s, LEAST_SHARE)
        credit_s = max(0.0, min(self.slack_s, longest_s)) * (1 - share)
        return Supply(self.now_s, share, credit_s)

    def _longest_s(self, base_s: float) -> float:
        fixed_s = base_s or self.cost.step_s(Mix.one(1, 0)).mean_s
        return (
            max(
                fixed_s * 2,
                min(LONGEST_OF_DECODE * fixed_s, LONGEST_OF_TTFT * self.policy.tightest_ttft_s),
            )
            if self.policy.tightest_ttft_s < inf
            else inf
        )

    def _select(self, supply: Supply) -> Selection:
        queue = self.policy.queue
        running = sorted(
            (t for t in self.prompts if not t.is_relegated and t.due_s < inf), key=by_due
        )
        lost: list[Track] = []
        tracks = []
        best = max(supply.share, 0.85)
        for track in islice(queue.promised, LOOKED_AT):
            if self.now_s + track.work_s / best > track.due_s and not track.live.output_tokens:
                lost.append(track)
            else:
                tracks.append(track)
        for track in lost:
            if track.live.request.objective.may_relegate:
                queue.relegate(track)
            else:
                tracks.append(track)
        for track in running:
            if (
                self.now_s > track.due_s
                and track.live.request.objective.may_relegate
                and not track.live.output_tokens
            ):
                track.is_relegated = True
        merged = sorted([*(t for t in running if not t.is_relegated), *tracks], key=by_due)
        return select(merged, supply)

    def _spare(self) -> list[Track]:
        running = [t for t in self.prompts if t.is_relegated or not t.due_s < inf]
        running.sort(key=by_order)
        return [*running, *self.policy.queue.spare[:LOOKED_AT]]

    def _target_s(self, base_s: float, chosen: Selection, supply: Supply, spare: bool) -> float:
        """How long this step should be: no longer than needed, and never past the veto."""
        most_s = min(self.cap_s, self._longest_s(base_s))
        if spare or chosen.put_off or not self.decodes:
            return most_s
        share = HURRY * (chosen.pressure + self.policy.arriving)
        if share >= 1:
            return most_s
        return min(most_s, base_s / (1 - share))

    def _serve(self, tracks: Iterable[Track], target_s: float, spare: bool = False) -> None:
        """Fill the step with chunks, several prompts if they fit, by what they cost."""
        policy, fill = self.policy, self.fill
        running = self.snapshot.running
        size = policy.tile_tokens
        room = policy.max_running - len(running) - len(fill._started) + len(fill.preempted)
        for track in tracks:
            live = track.live
            if live.request.id in fill.tokens or live.request.id in fill.preempted:
                continue
            left = policy.max_step_tokens - fill.granted_tokens
            if left < 1 or self.mix.chunks >= MOST_CHUNKS:
                return
            is_waiting = (live.cached_tokens == 0 and live.held_blocks == 0) or live not in running
            if is_waiting:
                if room < 1:
                    return
                self.snapshot.refresh(live)
                if not self._sustains(track):
                    continue
            history, wanted = live.cached_tokens, live.wanted_tokens
            fits = (
                self.cost.prefill_tokens_within(target_s, self.mix, history)
                if target_s < inf
                else wanted
            )
            take = min(fits, wanted, left)
            if take < wanted:
                take -= take % size
                if take < 1 and self._least_allowed():
                    take = min(size, wanted, left)
            if take < 1:
                return
            if is_waiting:
                if not fill.start(live, take, fill.owed([*running, *fill._started])):
                    return
                room -= 1
            else:
                take = fill.advance(live, take)
                if not take:
                    continue
            if take:
                self.mix = self.mix + Mix.one(take, history)
                if not track.is_relegated and track.tpot_s:
                    self.token_rate += 1 / track.tpot_s
                    self.tightest_s = min(self.tightest_s, track.tpot_s)

    def _least_allowed(self) -> bool:
        """Whether one tile may be taken although the target says none: it does so when the veto allows."""
        if self.mix.chunks:
            return False
        return (
            self.cost.step_s(self.mix + Mix.one(self.policy.tile_tokens, 0)).upper_s <= self.cap_s
        )

    def _sustains(self, track: Track) -> bool:
        """Whether decodes would keep up if this one joined them."""
        if not self.decodes or track.is_relegated or not track.tpot_s:
            return True
        n = len(self.decodes)
        fixed_s = self.cost.step_s(Mix.one(1, 64)).mean_s
        each_s = max(
            self.cost.step_s(
                self.mix
                if not self.mix.prefill_tokens
                else Mix(
                    self.mix.decodes,
                    self.mix.decode_context_tokens,
                    decode_context_squares=self.mix.decode_context_squares,
                )
            ).mean_s
            - fixed_s,
            0.0,
        ) / max(n - 1, 1)
        tightest_s = min(self.tightest_s, track.tpot_s)
        return fixed_s / tightest_s + each_s * (self.token_rate + 1 / track.tpot_s) <= FILLED

    def _at_least(self, tracks: list[Track]) -> None:
        """Where nothing would progress: one tile of the first that can."""
        for track in tracks:
            live = track.live
            take = min(self.policy.tile_tokens, live.wanted_tokens)
            if live in self.snapshot.running:
                if self.fill.advance(live, take):
                    return
            else:
                self.snapshot.refresh(live)
                if self.fill.start(
                    live, min(take, live.wanted_tokens), self.fill.owed(self.snapshot.running)
                ):
                    return

    def _ranked(self) -> list[Live]:
        """Running requests, those first that give way last."""

        def key(live: Live):
            track = self.policy.track(live)
            return (
                track.is_relegated or not track.has_promise,
                track.due_s if not live.output_tokens else 0.0,
                track.order,
            )

        return sorted(self.snapshot.running, key=key)
