"""What a policy is shown of an engine: sequences as `Live`, the pool as `Blocks`.

Waiting sequences are looked up in the prefix cache when a policy looks at them and not before: a
queue may be long, and a policy mostly looks at its front.
"""

from collections.abc import Sequence as Sequence_
from typing import overload

from hfx.cache import BlockPool, Hit
from hfx.scheduler import Blocks, Live, Snapshot

from .sequence import Sequence


class View:
    """One engine before a step, and the prefix hits that its policy has been told of."""

    def __init__(
        self, running: list[Sequence], waiting: list[Sequence], pool: BlockPool, now_s: float
    ) -> None:
        self._pool = pool
        self._hits: dict[str, Hit] = {}
        self.snapshot = Snapshot(
            now_s,
            [_running(sequence) for sequence in running],
            _Waiting(waiting.copy(), self),
            Blocks(pool.total, pool.available, pool.block_tokens),
        )

    def hit(self, sequence: Sequence) -> Hit:
        """What the prefix cache would give a waiting sequence: the same answer all step long."""
        hit = self._hits.get(sequence.id)
        if hit is None:
            names = sequence.chain.extend(sequence.token_ids) if self._pool.prefix_caching else []
            hit = self._hits[sequence.id] = self._pool.lookup(names, len(sequence.token_ids))
        return hit

    def waiting(self, sequence: Sequence) -> Live:
        """A waiting sequence as a policy sees it."""
        hit = self.hit(sequence)
        held = len(hit.blocks)
        return Live(
            sequence.request,
            held * self._pool.block_tokens,
            len(sequence.token_ids),
            sequence.output_tokens,
            held,
            idle_hit_blocks=hit.idle,
            preemptions=sequence.preemptions,
        )


class _Waiting(Sequence_[Live]):
    """The waiting sequences, each turned into a `Live` when it is looked at."""

    def __init__(self, sequences: list[Sequence], view: View) -> None:
        self._sequences = sequences
        self._view = view

    def __len__(self) -> int:
        return len(self._sequences)

    @overload
    def __getitem__(self, index: int) -> Live: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence_[Live]: ...
    def __getitem__(self, index: int | slice) -> Live | Sequence_[Live]:
        if isinstance(index, slice):
            return _Waiting(self._sequences[index], self._view)
        return self._view.waiting(self._sequences[index])


def _running(sequence: Sequence) -> Live:
    return Live(
        sequence.request,
        sequence.cached_tokens,
        len(sequence.token_ids),
        sequence.output_tokens,
        len(sequence.holding.blocks),
        sequence.holding.shared,
        preemptions=sequence.preemptions,
    )
