"""One replica on a virtual clock: the engine's order of events around a step, without a device.

A step policy sees what it would see in a server and its plans are carried out to the letter. Steps
of decodes that would all be planned alike are advanced in one jump, which an arrival cuts short.
Seconds, tokens, blocks.
"""

from __future__ import annotations

from bisect import bisect_left

from hfx.cost import CostModel, OnlineCost
from hfx.request import FinishReason, Mix, Plan
from hfx.scheduler import Blocks, Snapshot, StepPolicy

from .device import Device
from .flight import Flight
from .memory import Memory
from .residents import Residents
from .steady import repetition, steadiness

LEAST_JUMP = 4  # steps: shorter runs are stepped through faster
RETRIES = 100  # plans in a row that do nothing: some policies count how often they were asked
MOST_JUMP = 4096  # steps that are priced at once


class Replica(Residents):
    """Requests in, steps out: `begin` starts one, `finish` ends it.

    `prices` is what its policy believes, told of every step where it corrects itself; the device
    is what is true. With `jumps` false every step is planned.
    """

    def __init__(
        self,
        id: int,
        policy: StepPolicy,
        device: Device,
        memory: Memory,
        prices: CostModel,
        *,
        jumps: bool = True,
    ) -> None:
        super().__init__(id, policy, memory, prices)
        self.device = device
        self.steps = 0  # planned or jumped over
        self.plans = 0
        self.busy_s = 0.0
        self.computed_tokens = 0
        self.is_stepping = False
        self.log: list[tuple[float, Plan]] | None = None  # plans, where somebody wants them
        self._learned = prices if isinstance(prices, OnlineCost) else None
        may_jump = jumps and not device.noise and self._learned is None
        self._steady = steadiness(policy) if may_jump else None
        self._repeated = repetition(policy)
        self._batch: list[tuple[Flight, int]] = []
        self._mix = Mix()
        self._began_s = 0.0
        self._ends_s: list[float] = []
        self.view.advance = self._look

    def evacuate(self) -> list[Flight]:
        """Take everybody out, as when it dies; what was computed is lost, but no output token."""
        self.is_stepping = False
        return super().evacuate()

    # A step

    def begin(self, now_s: float, *, jump: bool = True) -> float | None:
        """Plan a step, or a run of equal ones; when it will end. None where nothing progresses."""
        self._expire(now_s)
        for _ in range(RETRIES):
            if not self.has_work:
                return None
            plan = self._plan(now_s)
            if plan.tokens:
                break
        else:
            return None
        mix = self._start(plan)
        self.is_stepping = True
        self._began_s, self._mix = now_s, mix
        ends_s = self._run_s(now_s, mix) if jump else None
        self._ends_s = ends_s or [now_s + self.device.step_s(mix)]
        self.view.boundary_s = self._ends_s[0]
        return self._ends_s[-1]

    def _plan(self, now_s: float) -> Plan:
        """Ask for a plan, and carry out what comes before the step."""
        blocks = Blocks(self.memory.total, self.memory.available, self.memory.block_tokens)
        self._hits.clear()
        plan = self.policy.plan(Snapshot(now_s, self.running, self.waiting, blocks, self._refresh))
        if self.log is not None:
            self.log.append((now_s, plan))
        self.plans += 1
        self._relegate(plan.relegated)
        for id in plan.expire:
            self._end(self.flights[id], FinishReason.EXPIRED)
        for preemption in plan.preempt:
            self._preempt(self.flights[preemption.request_id])
        return plan

    def busy_until(self, now_s: float) -> float:
        """How long it has computed until now, its running step included."""
        return self.busy_s + (now_s - self._began_s if self.is_stepping else 0.0)

    @property
    def is_in_run(self) -> bool:
        """Whether more than one step ends before it is asked again."""
        return self.is_stepping and len(self._ends_s) > 1

    def cut(self, now_s: float) -> float | None:
        """End a run at the first step that isn't over by now; its new end, None if as before."""
        ends_s = self._ends_s
        if not self.is_stepping or len(ends_s) < 2:
            return None
        keep = bisect_left(ends_s, now_s) + 1
        if keep >= len(ends_s):
            return None
        del ends_s[keep:]
        return ends_s[-1]

    def catch_up(self, now_s: float) -> None:
        """Account for the steps of a run that are over, so that requests are as they are now."""
        done = bisect_left(self._ends_s, now_s) if self.is_stepping else 0
        if not done:
            return
        over, self._ends_s = self._ends_s[:done], self._ends_s[done:]
        self.steps += done
        self.busy_s += over[-1] - self._began_s
        self._mix, self._began_s = later(self._mix, done), over[-1]
        if self._repeated is not None:
            self._repeated(over, self.view.cost.step_s(self._mix).mean_s)
        self._advance(over)
        for flight, _ in self._batch:
            self._hold(flight, 1)  # what the present step writes
        self.view.boundary_s = self._ends_s[0]
        self.view.free_blocks = self.memory.available

    def computes(self, flight: Flight) -> bool:
        """Whether a request is part of the present step."""
        return self.is_stepping and any(one is flight for one, _ in self._batch)

    def finish(self, now_s: float) -> None:
        """Account for the step, or the run of steps, that has ended."""
        ends_s, self.is_stepping = self._ends_s, False
        self.steps += len(ends_s)
        self.busy_s += now_s - self._began_s
        if self._learned is not None:
            self._learned.observe(self._mix, now_s - self._began_s)
        if len(ends_s) > 1:
            self._finish_run(ends_s)
        else:
            self._finish_step(now_s)
        self.view.free_blocks = self.memory.available

    def _finish_step(self, now_s: float) -> None:
        keep = self.memory.keep if self.memory.finds else None
        for flight, count in self._batch:
            live = flight.live
            cached = live.cached_tokens = live.cached_tokens + count
            if flight.owed:
                self._owe(flight, live.known_tokens - cached)
            if keep is not None:
                keep(flight)
            if cached == live.known_tokens and flight.token(now_s):
                self._end(flight, FinishReason.STOP)
        self.computed_tokens += self._mix.tokens

    def _finish_run(self, ends_s: list[float]) -> None:
        """Every one of the batch has decoded once in each of the steps, and some end."""
        if self._repeated is not None:
            last = self.view.cost.step_s(later(self._mix, len(ends_s) - 1))
            self._repeated(ends_s[:-1], last.mean_s)
        self._advance(ends_s)
        for flight, _ in self._batch:
            if not flight.left:
                self._end(flight, FinishReason.STOP)

    def _advance(self, ends_s: list[float]) -> None:
        steps = len(ends_s)
        self.computed_tokens += steps * len(self._batch)
        for flight, _ in self._batch:
            self._hold(flight, steps)
            flight.tokens(ends_s)
            self.memory.keep(flight)

    def _hold(self, flight: Flight, tokens: int) -> None:
        """Take the blocks that so many more tokens of a request need."""
        live, memory = flight.live, self.memory
        need = -(-(live.cached_tokens + tokens) // memory.block_tokens) - live.held_blocks
        if need > 0:
            memory.grow(flight, need)
            live.held_blocks += need

    def _run_s(self, now_s: float, mix: Mix) -> list[float]:
        """When each step of a run ends, if the plan is sure to be repeated; else nothing."""
        batch = self._batch
        if (
            self._steady is None
            or self.waiting
            or mix.chunks
            or self.view.prompt_tokens
            or len(batch) != len(self.running)
            or self._hard
        ):
            return []
        steps = min(MOST_JUMP, min(flight.left for flight, _ in batch))
        if steps < LEAST_JUMP:
            return []
        steps = self._room_for(steps)
        if steps < LEAST_JUMP:
            return []
        context, squares = mix.decode_context_tokens, mix.decode_context_squares
        longest_s = self.view.cost.step_s(later(mix, steps - 1)).upper_s
        if not self._steady(self.running, now_s, longest_s):
            return []
        ends_s: list[float] = self.device.decode_ends_s(
            now_s, steps, mix.decodes, context, squares
        ).tolist()
        return ends_s

    def _room_for(self, steps: int) -> int:
        """How many steps all of the batch can decode in the blocks that are free."""
        size, free = self.memory.block_tokens, self.memory.available
        while steps >= LEAST_JUMP:
            need = 0
            for flight, _ in self._batch:
                live = flight.live
                need += max(0, -(-(live.cached_tokens + steps) // size) - live.held_blocks)
            if need <= free:
                return steps
            steps //= 2
        return 0

    def _start(self, plan: Plan) -> Mix:
        """Start those whom the plan starts and take the blocks that its tokens need."""
        memory, size = self.memory, self.memory.block_tokens
        batch = self._batch = []
        wanted, flights = plan.tokens, self.flights
        if self.waiting and not all(flights[id].is_running for id in wanted):
            for live in [live for live in self.waiting if live.request.id in wanted]:
                self._enter(flights[live.request.id])
        decodes = context = squares = chunks = tokens = history = 0
        pairs = 0.0
        for live in self.running:
            count = wanted.get(live.request.id, 0)
            if not count:
                continue
            flight, cached = flights[live.request.id], live.cached_tokens
            reach = cached + count
            assert cached < reach <= live.known_tokens, "the plan's tokens don't fit"
            if reach > live.held_blocks * size:
                need = -(-reach // size) - live.held_blocks
                memory.grow(flight, need)
                live.held_blocks += need
            batch.append((flight, count))
            if count == 1 and cached:
                decodes += 1
                context += reach
                squares += reach * reach
            else:
                chunks += 1
                tokens += count
                history += cached
                pairs += count * (cached + count / 2)
        assert len(batch) == len(wanted), "the plan names a request that can't run"
        self.view.free_blocks = memory.available
        return Mix(decodes, context, chunks, tokens, history, pairs, squares)

    def _look(self, now_s: float) -> None:
        """Bring the view up to date within a run of steps."""
        ends_s = self._ends_s
        if self.is_stepping and ends_s[0] < now_s:
            self.view.boundary_s = ends_s[min(bisect_left(ends_s, now_s), len(ends_s) - 1)]


def later(mix: Mix, steps: int) -> Mix:
    """What the same decodes do so many steps later."""
    decodes, context = mix.decodes, mix.decode_context_tokens
    squares = mix.decode_context_squares + steps * (2 * context + decodes * steps)
    return Mix(decodes, context + decodes * steps, decode_context_squares=squares)
