"""A few replicas that carry out what a dispatcher decides, with prices that can be checked by hand.

Whoever names a request that is elsewhere, or a replica that is gone, fails the test.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

from hfx.cost import StepCost
from hfx.cost.link import Link
from hfx.request import FinishReason
from hfx.scheduler import Live
from hfx.scheduler.dispatch_view import (
    Bind,
    Decision,
    Dispatcher,
    Flip,
    Migrate,
    Refuse,
    Relegate,
    ReplicaView,
    Unbind,
)

from .builders import BLOCK_TOKENS, priced


def view_of(
    id: int,
    running: Sequence[Live] = (),
    waiting: Sequence[Live] = (),
    *,
    blocks: int = 10_000,
    cost: StepCost | None = None,
    boundary_s: float = 0.0,
    link: Link | None = None,
) -> ReplicaView:
    held = sum(live.held_blocks for live in running)
    view = ReplicaView(
        id,
        cost or priced(),
        blocks,
        BLOCK_TOKENS,
        blocks - held,
        list(running),
        list(waiting),
        boundary_s=boundary_s,
        link=link,
    )
    view.prompt_tokens = sum(
        live.wanted_tokens for live in (*running, *waiting) if not live.is_decoding
    )
    return view


@dataclass
class Toy:
    """A fleet in which a step computes every prompt that is bound, and ends all that decode."""

    dispatcher: Dispatcher
    views: dict[int, ReplicaView] = field(default_factory=dict)
    queued: dict[str, Live] = field(default_factory=dict)
    bound: dict[str, int] = field(default_factory=dict)
    gone: set[str] = field(default_factory=set)
    log: list[Decision] = field(default_factory=list)

    def join(self, view: ReplicaView) -> None:
        self.views[view.id] = view
        self.dispatcher.joined(view)

    def leave(self, id: int, now_s: float) -> None:
        view = self.views.pop(id)
        self.dispatcher.left(id)
        for live in (*view.running, *view.waiting):
            live.cached_tokens = live.held_blocks = 0
            del self.bound[live.request.id]
            self.arrive(live, now_s)

    def arrive(self, live: Live, now_s: float) -> None:
        self.queued[live.request.id] = live
        self.carry_out(self.dispatcher.arrived(live, now_s))

    def end(self, id: str, reason: FinishReason) -> None:
        live = self.queued.pop(id)
        self.gone.add(id)
        self.dispatcher.ended(live.request, live.output_tokens, reason)

    def step(self, id: int, now_s: float) -> None:
        view = self.views[id]
        for live in list(view.running):
            self._finish(view, live)
        for live in list(view.waiting):
            view.waiting.remove(live)  # type: ignore[attr-defined]
            view.running.append(live)  # type: ignore[attr-defined]
            live.cached_tokens = live.known_tokens
            live.known_tokens += 1
            live.output_tokens += 1
            live.first_token_s = live.first_token_s or now_s
            live.held_blocks = -(-live.known_tokens // BLOCK_TOKENS)
            view.free_blocks -= live.held_blocks
        view.prompt_tokens = 0
        view.boundary_s = now_s
        self.carry_out(self.dispatcher.stepped(id, now_s))

    def _finish(self, view: ReplicaView, live: Live) -> None:
        view.running.remove(live)  # type: ignore[attr-defined]
        view.free_blocks += live.held_blocks
        del self.bound[live.request.id]
        self.gone.add(live.request.id)
        self.dispatcher.ended(live.request, live.output_tokens, FinishReason.STOP)

    def carry_out(self, decisions: Sequence[Decision]) -> None:
        self.log += decisions
        for decision in decisions:
            match decision:
                case Bind(id, replica_id):
                    live, view = self.queued.pop(id), self.views[replica_id]
                    assert id not in self.bound
                    self.bound[id] = replica_id
                    view.waiting.append(live)  # type: ignore[attr-defined]
                    view.prompt_tokens += live.wanted_tokens
                case Unbind(id, replica_id):
                    assert self.bound.pop(id) == replica_id
                    view = self.views[replica_id]
                    live = next(one for one in view.waiting if one.request.id == id)
                    view.waiting.remove(live)  # type: ignore[attr-defined]
                    view.prompt_tokens -= live.wanted_tokens
                    self.queued[id] = live
                case Relegate(id):
                    assert id in self.queued
                case Refuse(id):
                    self.gone.add(id)
                    del self.queued[id]
                case Migrate(id, source_id, target_id):
                    assert self.bound[id] == source_id and target_id in self.views
                case Flip(replica_id, role):
                    self.views[replica_id].role = role
