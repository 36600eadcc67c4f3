"""What a policy is shown of an engine: its sequences as `Live`, the pool as `Blocks`.

Waiting sequences are looked up in the prefix cache when a policy asks and not before: a queue may
be long, and a policy mostly looks at its front.
"""

from array import array

from hfx.cache import BlockPool, Hit, PrefixChain
from hfx.request import Request
from hfx.scheduler import Blocks, Live, Snapshot

from .sequence import Sequence


class View:
    """One engine before a step, and the prefix hits that its policy has been told of.

    `live` finds a sequence by its request's id.
    """

    def __init__(
        self,
        running: list[Sequence],
        waiting: list[Sequence],
        live: dict[str, Sequence],
        pool: BlockPool,
        now_s: float,
    ) -> None:
        self._sequences = live
        self._pool = pool
        self._hits: dict[str, Hit] = {}
        self.snapshot = Snapshot(
            now_s,
            [sequence.live for sequence in running],
            [sequence.live for sequence in waiting],
            Blocks(pool.total, pool.available, pool.block_tokens),
            self.refresh,
        )

    def hit(self, sequence: Sequence) -> Hit:
        """What the prefix cache would give a waiting sequence: the same answer all step long."""
        hit = self._hits.get(sequence.id)
        if hit is None:
            names = sequence.chain.extend(sequence.token_ids) if self._pool.prefix_caching else []
            hit = self._hits[sequence.id] = self._pool.lookup(names, len(sequence.token_ids))
        return hit

    def hit_tokens(self, request: Request) -> int:
        """What the prefix cache would give a request that is not here."""
        if not self._pool.prefix_caching:
            return 0
        chain = PrefixChain(self._pool.block_tokens, request.cache_salt)
        names = chain.extend(array("i", request.prompt_token_ids))
        hit = self._pool.lookup(names, request.prompt_tokens)
        return len(hit.blocks) * self._pool.block_tokens

    def refresh(self, live: Live) -> None:
        """Tell of a waiting sequence's prefix hit, or of a running one's shared blocks."""
        sequence = self._sequences[live.request.id]
        if sequence.table_row >= 0:
            live.shared_blocks = sequence.holding.shared
            return
        hit = self.hit(sequence)
        live.held_blocks = len(hit.blocks)
        live.cached_tokens = live.held_blocks * self._pool.block_tokens
        live.idle_hit_blocks = hit.idle
