"""The core loop of one replica: a plan is asked for, carried out, and turned into news.

Synchronous and for one thread only. Each step: snapshot, plan, preempt, take blocks, compute,
append what was drawn, end what is done. Blocks are given back on every way out.
"""

from __future__ import annotations

import logging
from bisect import insort
from collections.abc import Callable, Collection
from collections.abc import Sequence as Sequence_

from hfx.cache import BlockPool, PrefixChain
from hfx.clock import Clock, MonotonicClock
from hfx.cost import Estimate
from hfx.request import FinishReason, Plan, Refused, Request
from hfx.scheduler import StepPolicy

from .account import Meter, StepShare, is_promise
from .batch import BlockTable, Company, Executor, Sampled, StepBatch, build_batch
from .delta import Delta
from .detokenize import TextStream
from .errors import EngineDead
from .expiry import Expiries
from .forecast import Forecast, Outlook
from .foresight import Foresight
from .live_cost import LiveCost
from .observe import EngineStats, StepObserver, StepRecord
from .room import Room
from .sequence import Past, Sequence
from .view import View

logger = logging.getLogger(__name__)

MAX_FAILED_STEPS = 3  # in a row: then it is the engine that is broken, not the requests


class Engine:
    """Requests in, deltas out, one step at a time.

    `decode(token_ids, skip_special_tokens)` turns tokens into text. A request without a seed gets
    one from `seed` and its place in the order of arrival, so a rerun gives the same text. `cost`
    predicts every step before it runs and learns from it; `admission` predicts requests. The
    `company` ends with the engine, and its loss ends the engine.

    Raises:
        ValueError: the pool can't hold one sequence of `max_model_len` tokens.
    """

    def __init__(
        self,
        executor: Executor,
        policy: StepPolicy,
        pool: BlockPool,
        decode: Callable[[Sequence_[int], bool], str],
        *,
        vocabulary: int,
        max_model_len: int,
        eos_token_ids: Sequence_[int] = (),
        clock: Clock | None = None,
        seed: int = 0,
        cost: LiveCost | None = None,
        admission: Forecast | None = None,
        company: Company | None = None,
    ) -> None:
        if pool.total * pool.block_tokens < max_model_len:
            raise ValueError(
                f"{pool.total} blocks of {pool.block_tokens} tokens can't hold one sequence of "
                f"max_model_len {max_model_len} tokens: give the cache more memory, or lower it"
            )
        self.max_model_len = max_model_len
        self.pool = pool
        self.clock = clock or MonotonicClock()
        self.cost = cost
        self.company = company
        self._executor = executor
        self._policy = policy
        self._decode = decode
        self._vocabulary = vocabulary
        self._eos = frozenset(i for i in eos_token_ids if i < vocabulary)
        self._seed = seed
        self._arrivals = 0
        self._meter = Meter(None if cost is None else lambda mix: cost.predict(mix).mean_s)
        self._foresight = Foresight(admission, self.clock)
        self._expiries = Expiries()
        self._room = Room(None if cost is None else cost.online)
        self._table = BlockTable(16, pool.blocks_for(max_model_len))
        self._live: dict[str, Sequence] = {}
        self._running: list[Sequence] = []  # both in order of arrival
        self._waiting: list[Sequence] = []
        self._relegated: frozenset[str] = frozenset()
        self._observers: list[StepObserver] = []
        self._steps = self._preemptions = self._failed_steps = self._failed_in_a_row = 0
        self._query_tokens = self._hit_tokens = 0

    @property
    def has_work(self) -> bool:
        """Whether any request is running or waiting."""
        return bool(self._live)

    @property
    def steps(self) -> int:
        """Steps carried out so far."""
        return self._steps

    @property
    def waiting(self) -> int:
        """Requests that hold no blocks yet, or no longer."""
        return len(self._waiting)

    @property
    def room_s(self) -> float | None:
        """How soon the queue gets shorter by one, by the prices; from any thread. None: unknown."""
        return self._room.wait_s

    @property
    def lost(self) -> EngineDead | None:
        """Why its company can't compute any more, if so; from any thread."""
        return None if self.company is None else self.company.lost

    @property
    def vocabulary(self) -> int:
        """Token ids that the model knows: 0 to one less."""
        return self._vocabulary

    def standing(self) -> tuple[list[tuple[str, int]], list[str]]:
        """Running requests that do not decode yet, with their cached tokens; and those that wait.

        All other live requests decode.
        """
        prompts = [(s.id, s.cached_tokens) for s in self._running if not s.live.is_decoding]
        return prompts, [s.id for s in self._waiting]

    def add_observer(self, observer: StepObserver) -> None:
        """Tell an observer about every step and every end from now on."""
        self._observers.append(observer)

    def check(self, request: Request) -> None:
        """Refuse what can't be computed; safe from any thread.

        Raises:
            ValueError: the prompt is so long that it leaves no room for output, or a token id is
                not in the vocabulary; the message names value and limit.
        """
        check_request(request, self._vocabulary, self.max_model_len)

    def add(
        self,
        request: Request,
        heard_s: float | None = None,
        *,
        foresee: bool = False,
        past: Past | None = None,
    ) -> None:
        """Let a request wait for its turn. Its `max_tokens` is cut to what the context allows.

        `heard_s` is when it was handed over, where a step had to end first. What it could expect is
        kept in its account if something was promised, or if asked to `foresee`. With a `past` it
        goes on where another engine has left it: deltas tell only what is new since then.

        Raises:
            ValueError: see `check`; or a live request has the same id.
        """
        self.check(request)
        if request.id in self._live:
            raise ValueError(f"request id {request.id!r} is in use: ids of live requests differ")
        sequence = self._sequence(request, heard_s, None if past is None else past.seed)
        if past is not None:
            sequence.resume(past)
        if foresee or is_promise(request.objective):
            sequence.account.outlook = self._foresight.note(request, self._view())
        self._live[request.id] = sequence
        self._expiries.add(sequence)
        insort(self._waiting, sequence, key=lambda waiting: waiting.order)

    def answer(self, request: Request) -> Refused | None:
        """Why a request's promise could not be kept if it came now; None: it could, or who knows.

        Nothing is refused without prices.
        """
        return self._foresight.answer(request, self._view())

    def outlook(self, request: Request) -> Outlook | None:
        """What a request could expect if it came now; None without prices."""
        return self._foresight.outlook(request, self._view())

    def abort(self, request_id: str) -> Delta | None:
        """End a request now, wherever it is; None if it has ended already."""
        sequence = self._live.get(request_id)
        return None if sequence is None else self._end(sequence, FinishReason.ABORT)

    def withdraw(self, request_id: str) -> bool:
        """Forget a request that has not begun, with no news of it; whether it had not."""
        sequence = self._live.get(request_id)
        if sequence is None or sequence.scheduled_s is not None:
            return False
        self._waiting.remove(sequence)
        del self._live[request_id]
        self._relegated -= {request_id}
        sequence.end(FinishReason.ABORT)
        self._policy.ended(sequence.request, sequence.output_tokens, FinishReason.ABORT)
        return True

    def step(self) -> list[Delta]:
        """Carry out one step; news of every request that got a token or ended.

        Raises:
            EngineDead: one step too many in a row has failed, or the company was lost.
        """
        started_s = self.clock.now_s()
        expired = self._expire(self._expiries.due(started_s))
        view = self._view()
        plan = self._policy.plan(view.snapshot)
        relegated = self._relegate(plan.relegated)
        expired += self._expire(plan.expire)
        for preemption in plan.preempt:
            self._preempt(self._live[preemption.request_id], preemption.reason)
        fresh = self._start(plan, view, started_s)
        batch, steps = self._batch(plan)
        self._meter.stand(started_s, short=self._is_short(view), dry=not self.pool.available)
        if not steps:
            return expired
        predicted = self.cost.predict(batch.mix) if self.cost else None
        planned_s = self.clock.now_s()
        try:
            sampled = self._executor.execute(batch).sampled
        except EngineDead:
            raise
        except Exception as error:
            return expired + self._fail([sequence for sequence, _ in steps], error)
        assert len(sampled) == len(batch.draws), "the executor owes a result for every draw"
        self._failed_in_a_row = 0
        now_s = self.clock.now_s()
        share = self._meter.step(batch.mix, started_s, now_s - planned_s, now_s)
        deltas = expired + self._advance(steps, sampled, share, now_s)
        if self.cost:
            self.cost.learn(batch.mix, now_s - started_s)
        self._room.look(now_s, self._running, self._waiting)
        self._record(batch, plan, fresh, relegated, started_s, now_s, predicted)
        return deltas

    def close(self) -> None:
        """End the company; nothing to do without one. From any thread, and more than once."""
        if self.company is not None:
            self.company.close()

    def stats(self) -> EngineStats:
        """Counts as they are between two steps."""
        return EngineStats(
            running=len(self._running),
            waiting=len(self._waiting),
            deferred=sum(sequence.id in self._relegated for sequence in self._waiting.copy()),
            free_blocks=self.pool.available,
            idle_blocks=self.pool.idle,
            total_blocks=self.pool.total,
            block_tokens=self.pool.block_tokens,
            steps=self._steps,
            preemptions=self._preemptions,
            failed_steps=self._failed_steps,
            prefix_query_tokens=self._query_tokens,
            prefix_hit_tokens=self._hit_tokens,
        )

    def audit(self) -> None:
        """Assert that blocks and sequences agree; for tests."""
        self.pool.check()
        held = {block for sequence in self._running for block in sequence.holding.blocks}
        assert len(held) == self.pool.total - self.pool.available
        assert not any(sequence.holding.blocks for sequence in self._waiting)
        assert len(self._live) == len(self._running) + len(self._waiting)

    def _sequence(self, request: Request, heard_s: float | None, seed: str | None) -> Sequence:
        self._arrivals += 1
        sampling = request.sampling
        now_s = self.clock.now_s()
        arrival_s = request.arrival_s or now_s
        if seed is None:
            seed = seed_of(sampling.seed, self._seed, self._arrivals)
        return Sequence(
            request,
            order=(arrival_s, self._arrivals),
            max_tokens=min(sampling.max_tokens, self.max_model_len - request.prompt_tokens),
            seed=seed,
            eos_token_ids=self._eos,
            chain=PrefixChain(self.pool.block_tokens, request.cache_salt),
            text=TextStream(self._decode, sampling, request.prompt_token_ids),
            account=self._meter.open(request.objective, arrival_s, heard_s or now_s),
        )

    def _view(self) -> View:
        now_s = self.clock.now_s()
        return View(self._running, self._waiting, self._live, self.pool, now_s)

    def _expire(self, request_ids: Sequence_[str]) -> list[Delta]:
        return [self._end(self._live[id], FinishReason.EXPIRED) for id in request_ids]

    def _relegate(self, request_ids: frozenset[str]) -> tuple[str, ...]:
        """Take note of who is served from spare capacity; the tiers of those who were not before.

        A request counts once, however often it goes back and forth.
        """
        fresh = [self._live[id] for id in request_ids - self._relegated]
        self._relegated = request_ids
        tiers = tuple(s.request.objective.tier for s in fresh if not s.account.was_relegated)
        for sequence in fresh:
            sequence.account.was_relegated = True
        return tiers

    def _is_short(self, view: View) -> bool:
        """Whether the first waiting request could not have its blocks."""
        if not self._waiting:
            return False
        first = self._waiting[0]
        hit = view.hit(first)
        occupied = len(hit.blocks) - hit.idle
        return self.pool.blocks_for(len(first.token_ids)) - occupied > self.pool.available

    def _preempt(self, sequence: Sequence, reason: str) -> None:
        """Take a running sequence's blocks; it waits again, tokens kept, in order of arrival."""
        logger.debug("request %s is preempted: %s", sequence.id, reason)
        sequence.account.redo_tokens = max(sequence.account.redo_tokens, sequence.cached_tokens)
        self._leave(sequence)
        sequence.live.preemptions += 1
        self._preemptions += 1
        insort(self._waiting, sequence, key=lambda waiting: waiting.order)

    def _start(self, plan: Plan, view: View, now_s: float) -> list[Sequence]:
        """Start the waiting sequences that the plan names; those that run for the first time."""
        starting = [s for s in self._waiting if s.id in plan.tokens]
        for sequence in starting:
            hit = view.hit(sequence)
            self.pool.take(sequence.holding, hit)
            sequence.kept_blocks = len(hit.blocks)
            sequence.live.held_blocks, sequence.live.idle_hit_blocks = len(hit.blocks), 0
            sequence.live.cached_tokens = len(hit.blocks) * self.pool.block_tokens
            sequence.table_row = self._table.open_row(hit.blocks)
            self._waiting.remove(sequence)
            insort(self._running, sequence, key=lambda running: running.order)
        fresh = [sequence for sequence in starting if sequence.scheduled_s is None]
        for sequence in fresh:
            sequence.scheduled_s = now_s
            sequence.hit_tokens = sequence.cached_tokens
        return fresh

    def _batch(self, plan: Plan) -> tuple[StepBatch, list[tuple[Sequence, int]]]:
        """Take the blocks that the plan's tokens need, and lay the step out."""
        steps = [(s, plan.tokens[s.id]) for s in self._running if s.id in plan.tokens]
        assert len(steps) == len(plan.tokens), "the plan names a request that can't run"
        for sequence, count in steps:
            cached = sequence.cached_tokens
            assert 1 <= count <= len(sequence.token_ids) - cached, "the plan's tokens don't fit"
            held = len(sequence.holding.blocks)
            blocks = self.pool.grow(sequence.holding, self.pool.blocks_for(cached + count) - held)
            if blocks:
                self._table.append(sequence.table_row, held, blocks)
                sequence.live.held_blocks = held + len(blocks)
        return build_batch(steps, self._table), steps

    def _advance(
        self,
        steps: list[tuple[Sequence, int]],
        sampled: Sequence_[Sampled],
        share: StepShare,
        now_s: float,
    ) -> list[Delta]:
        deltas: list[Delta] = []
        results = iter(sampled)
        for sequence, count in steps:
            share.bear(sequence.account, sequence.live, count)
            sequence.live.cached_tokens += count
            if sequence.cached_tokens < len(sequence.token_ids):
                self._keep_full_blocks(sequence)
                continue
            deltas.append(self._take(sequence, next(results), now_s))
        return deltas

    def _take(self, sequence: Sequence, sampled: Sampled, now_s: float) -> Delta:
        """Append what was drawn for a sequence, and end it if that was its last."""
        if sampled.error is not None:
            self.pool.forget(sequence.holding)
            return self._end(sequence, FinishReason.ERROR, sampled.error)
        self._keep_full_blocks(sequence)
        text = sequence.append(sampled.token_id, now_s)
        logprobs = None if sampled.logprob is None else (sampled.logprob,)
        if sequence.is_finished and sequence.expires_s is not None and now_s > sequence.expires_s:
            sequence.end(FinishReason.EXPIRED)
        delta = sequence.delta((sampled.token_id,), text, logprobs)
        if sequence.is_finished:
            self._drop(sequence, delta)
        return delta

    def _keep_full_blocks(self, sequence: Sequence) -> None:
        full = sequence.cached_tokens // self.pool.block_tokens
        if full > sequence.kept_blocks and self.pool.prefix_caching:
            names = sequence.chain.extend(sequence.token_ids)
            for index in range(sequence.kept_blocks, full):
                self.pool.keep(sequence.holding, index, names[index])
            sequence.kept_blocks = full

    def _fail(self, sequences: list[Sequence], error: Exception) -> list[Delta]:
        """End the sequences of a step that failed; what it wrote may be found by nobody."""
        logger.exception("a step of %d requests failed", len(sequences))
        self._failed_steps += 1
        self._failed_in_a_row += 1
        reason = f"{type(error).__name__}: {error}"
        for sequence in sequences:
            self.pool.forget(sequence.holding)
        deltas = [self._end(sequence, FinishReason.ERROR, reason) for sequence in sequences]
        if self._failed_in_a_row >= MAX_FAILED_STEPS:
            raise EngineDead(f"{MAX_FAILED_STEPS} steps in a row failed, the last by {reason}")
        return deltas

    def _end(self, sequence: Sequence, reason: FinishReason, error: str | None = None) -> Delta:
        self._meter.wait(sequence.account, sequence.live, self.clock.now_s())
        sequence.end(reason, error)
        delta = sequence.delta(text=sequence.text.flush())
        self._drop(sequence, delta)
        return delta

    def _drop(self, sequence: Sequence, last: Delta) -> None:
        """Forget a sequence that has ended, and say so."""
        if sequence.table_row >= 0:
            self._leave(sequence)
        else:
            self._waiting.remove(sequence)
        del self._live[sequence.id]
        assert sequence.finish_reason is not None, "only what has ended is dropped"
        if sequence.finish_reason is not FinishReason.ABORT:
            self._room.ended(sequence.output_tokens)
        self._policy.ended(sequence.request, sequence.output_tokens, sequence.finish_reason)
        self._tell(lambda observer: observer.on_finish(last))

    def _leave(self, sequence: Sequence) -> None:
        """Take a sequence out of the running ones, its blocks back into the pool."""
        self._running.remove(sequence)
        self._table.close_row(sequence.table_row)
        self.pool.release(sequence.holding)
        sequence.table_row = -1
        sequence.live.cached_tokens = sequence.live.held_blocks = 0

    def _record(
        self,
        batch: StepBatch,
        plan: Plan,
        fresh: list[Sequence],
        relegated: tuple[str, ...],
        started_s: float,
        now_s: float,
        predicted: Estimate | None,
    ) -> None:
        query_tokens = sum(sequence.request.prompt_tokens for sequence in fresh)
        hit_tokens = sum(sequence.hit_tokens for sequence in fresh)
        self._steps += 1
        self._query_tokens += query_tokens
        self._hit_tokens += hit_tokens
        record = StepRecord(
            started_s=started_s,
            duration_s=now_s - started_s,
            mix=batch.mix,
            running=len(self._running),
            waiting=len(self._waiting),
            free_blocks=self.pool.available,
            total_blocks=self.pool.total,
            preempted=len(plan.preempt),
            prefix_query_tokens=query_tokens,
            prefix_hit_tokens=hit_tokens,
            predicted=predicted,
            relegated=relegated,
        )
        self._tell(lambda observer: observer.on_step(record))

    def _tell(self, news: Callable[[StepObserver], None]) -> None:
        """Tell every observer; one that fails is heard of in the log, and told nothing more."""
        for observer in self._observers.copy():
            try:
                news(observer)
            except Exception:
                logger.exception("observer %r failed and is told nothing more", observer)
                self._observers.remove(observer)


def seed_of(asked: int | None, seed: int, arrivals: int) -> str:
    """What a request's draws are made from: the seed it asks for, or the engine's and its place."""
    return f"{seed}+{arrivals}" if asked is None else str(asked)


def check_request(request: Request, vocabulary: int, max_model_len: int) -> None:
    """See `Engine.check`."""
    _check_vocabulary("prompt_token_ids", request.prompt_token_ids, vocabulary)
    _check_vocabulary("logit_bias", request.sampling.logit_bias, vocabulary)
    _check_vocabulary("stop_token_ids", request.sampling.stop_token_ids, vocabulary)
    if request.prompt_tokens >= max_model_len:
        raise ValueError(
            f"the prompt has {request.prompt_tokens} tokens: the model's context of "
            f"{max_model_len} tokens must hold it and at least 1 output token; shorten the prompt "
            f"to {max_model_len - 1} tokens, or serve with a larger max_model_len"
        )


def _check_vocabulary(name: str, token_ids: Collection[int], vocabulary: int) -> None:
    if not token_ids:
        return
    least, most = min(token_ids), max(token_ids)
    if least < 0 or most >= vocabulary:
        wrong = least if least < 0 else most
        raise ValueError(f"{name} holds {wrong}: the model's token ids are 0 to {vocabulary - 1}")
