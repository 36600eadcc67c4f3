"""A replica's snapshots: when the next one is due, and what is in it. Seconds, tokens, blocks."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from math import inf

from hfx.cost import Accuracy
from hfx.engine.compilations import COMPILATIONS
from hfx.engine.delta import Delta
from hfx.engine.engine import Engine
from hfx.engine.observe import StepRecord
from hfx.request import Mix

from .messages import Regime, State, StepRow

MOST_ROWS = 64  # steps told one by one between two snapshots


class Reporter:
    """Makes snapshots of an engine, at most one every `interval_s` and none while nothing changes.

    For the engine's thread; its times are of `time.monotonic`.
    """

    def __init__(self, engine: Engine, interval_s: float) -> None:
        self.interval_s = interval_s
        self._engine = engine
        self._rows: deque[StepRow] = deque(maxlen=MOST_ROWS)
        self._last_s = -inf
        self._has_changed = True
        engine.add_observer(self)

    def touch(self) -> None:
        """Something has changed."""
        self._has_changed = True

    def due_s(self, now_s: float) -> float:
        """How long until the next one is due; infinite while nothing changes."""
        self._now_s = now_s
        return self._last_s + self.interval_s - now_s if self._has_changed else inf

    def state(self, numbers: Mapping[str, int]) -> State:
        """The engine as it stands, and the next one later; `numbers` by request id."""
        engine = self._engine
        stats = engine.stats()
        partial, queued = engine.standing()
        accuracy = engine.cost.accuracy if engine.cost else {}
        state = State(
            engine.clock.now_s(),
            stats.running,
            stats.free_blocks,
            stats.idle_blocks,
            stats.deferred,
            tuple((numbers[id], cached) for id, cached in partial if id in numbers),
            tuple(numbers[id] for id in queued if id in numbers),
            stats.steps,
            stats.preemptions,
            stats.failed_steps,
            stats.prefix_query_tokens,
            stats.prefix_hit_tokens,
            _regime(accuracy.get("decode")),
            _regime(accuracy.get("mixed")),
            tuple(self._rows),
            dict(COMPILATIONS.counts),
        )
        self._rows.clear()
        self._last_s = self._now_s
        self._has_changed = False
        return state

    def keep(self, state: State | None) -> None:
        """A snapshot could not be sent: its steps go into the next one."""
        if state is not None:
            self._rows.extendleft(reversed(state.rows))
            self._last_s = -inf
            self._has_changed = True

    def on_step(self, record: StepRecord) -> None:
        """See `StepObserver`."""
        predicted = record.predicted
        self._rows.append(
            StepRow(
                record.started_s,
                record.duration_s,
                _sums(record.mix),
                None if predicted is None else (predicted.mean_s, predicted.upper_s),
                record.preempted,
                record.prefix_query_tokens,
                record.prefix_hit_tokens,
                record.relegated,
            )
        )

    def on_finish(self, delta: Delta) -> None:
        """See `StepObserver`: ends are told as they come."""


def _sums(mix: Mix) -> tuple[int, int, int, int, int, float, int]:
    return (
        mix.decodes,
        mix.decode_context_tokens,
        mix.chunks,
        mix.prefill_tokens,
        mix.prefill_context_tokens,
        mix.attention_pairs,
        mix.decode_context_squares,
    )


def _regime(now: Accuracy | None) -> Regime | None:
    if now is None:
        return None
    return Regime(now.steps, now.mape, now.coverage, now.factor, now.bound)
