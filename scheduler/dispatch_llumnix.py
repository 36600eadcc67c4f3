"""As Llumnix dispatches: to the freest replica, and streams move on from those that are not.

Sun et al., OSDI 2024, and github.com/AlibabaPAI/llumnix. Tokens, seconds.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import inf

from .dispatch_fixed import OnArrival
from .dispatch_view import Decision, Migrate, ReplicaView
from .policy import Live

PERIOD_S = 0.1  # between two looks at who should give streams to whom
LESS_FREE = 0.5  # of the other's steps: from there on a stream moves
RESERVE = 1  # streams that a replica keeps


class LlumnixLike(OnArrival):
    """Freeness is the number of steps that a replica's cache has room for with its present batch:
    (capacity - virtual usage) / requests, where what waits counts with all that it will need.

    Theirs: freeness, dispatch to the freest, pairs of the least and the most free, the shortest
    stream moves, one at a time. Chosen here: all waiting prompts count and not only the first,
    since chunked prompts hold a replica up though there is memory; and the threshold is relative,
    since an absolute one in steps fires only where memory is short, which it never is here. M1 on 4
    replicas hardly tells thresholds of 0.25 to 0.85 apart (81.1 to 81.2 % at 32 requests/s).
    """

    def __init__(self) -> None:
        super().__init__()
        self.wake_s = inf

    def arrived(self, live: Live, now_s: float) -> Sequence[Decision]:
        """See `Dispatcher.arrived`."""
        if self.wake_s == inf:
            self.wake_s = now_s + PERIOD_S
        return super().arrived(live, now_s)

    def choose(self, live: Live) -> ReplicaView:
        """See `OnArrival.choose`."""
        return max(self.replicas, key=lambda view: (steps_free(view), -view.id))

    def woke(self, now_s: float) -> Sequence[Decision]:
        """Move a stream from each of the least free to one of the most free."""
        if not any(view.requests for view in self.replicas):
            self.wake_s = inf
            return ()
        self.wake_s = now_s + PERIOD_S
        ready = [view for view in self.replicas if not view.incoming and view.link is not None]
        ready.sort(key=lambda view: (steps_free(view), view.id))
        half = len(ready) // 2
        pairs = zip(ready[:half], reversed(ready), strict=False)
        moves = (_move(source, target, now_s) for source, target in pairs)
        return [move for move in moves if move is not None]


def steps_free(view: ReplicaView) -> float:
    """How many steps a replica's cache has room for, if its batch stays as it is."""
    room = view.free_blocks * view.block_tokens - view.prompt_tokens
    return room / max(1, view.requests + len(view.incoming))


def _move(source: ReplicaView, target: ReplicaView, now_s: float) -> Decision | None:
    """The shortest stream of one replica, if the other would still be freer with it."""
    source.advance(now_s)
    streams = [live for live in source.running if live.output_tokens]
    if len(streams) <= RESERVE or steps_free(source) >= LESS_FREE * steps_free(target):
        return None
    live = min(streams, key=lambda one: (one.known_tokens, one.request.id))
    room = target.free_blocks * target.block_tokens - target.prompt_tokens - live.known_tokens
    if room / (target.requests + 1) <= steps_free(source):
        return None
    return Migrate(live.request.id, source.id, target.id)
