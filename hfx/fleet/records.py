"""What replicas tell of their steps and state, in the words of one engine. Seconds, blocks."""

from __future__ import annotations

from collections.abc import Iterable

from hfx.cost import Estimate
from hfx.engine.observe import EngineStats, StepRecord
from hfx.request import Mix

from .member import Member
from .messages import State, StepRow


def record_of(row: StepRow, state: State, total_blocks: int) -> StepRecord:
    """One step; the load beside it is that of the snapshot that told it."""
    return StepRecord(
        started_s=row.started_s,
        duration_s=row.duration_s,
        mix=Mix(*row.mix),
        running=state.running,
        waiting=len(state.queued),
        free_blocks=state.free_blocks,
        total_blocks=total_blocks,
        preempted=row.preempted,
        prefix_query_tokens=row.query_tokens,
        prefix_hit_tokens=row.hit_tokens,
        predicted=None if row.predicted is None else Estimate(*row.predicted),
        relegated=row.relegated,
    )


def summed(members: Iterable[Member], waiting: int) -> EngineStats:
    """All replicas as one engine; `waiting` requests are at none. Totals are of live processes."""
    lives = [m.life for m in members if m.life is not None and m.life.ready is not None]
    states = [life.state for life in lives if life.state is not None]
    total = sum(life.ready.total_blocks for life in lives if life.ready)
    unseen = sum(life.ready.total_blocks for life in lives if life.ready and life.state is None)
    sizes = [life.ready.block_tokens for life in lives if life.ready]
    return EngineStats(
        running=sum(state.running for state in states),
        waiting=waiting + sum(len(state.queued) for state in states),
        deferred=sum(state.deferred for state in states),
        free_blocks=unseen + sum(state.free_blocks for state in states),
        idle_blocks=sum(state.idle_blocks for state in states),
        total_blocks=total,
        block_tokens=sizes[0] if sizes else 1,
        steps=sum(state.steps for state in states),
        preemptions=sum(state.preemptions for state in states),
        failed_steps=sum(state.failed_steps for state in states),
        prefix_query_tokens=sum(state.query_tokens for state in states),
        prefix_hit_tokens=sum(state.hit_tokens for state in states),
    )
