"""The key-value pool of a simulated replica: counted, or with prefixes found by hash ids. Blocks.

Both are asked the same questions; `Counted` is for traffic without hash ids, and much faster.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from hfx.cache import BlockPool, Hit, Holding

from .job import HASH_TOKENS, Job

if TYPE_CHECKING:
    from .flight import Flight

NO_HIT = Hit()


class Memory(Protocol):
    """Who holds how many blocks of `block_tokens` tokens."""

    total: int
    block_tokens: int

    @property
    def available(self) -> int:
        """Blocks that can be taken now."""
        ...

    def hit(self, job: Job, known_tokens: int) -> Hit:
        """What the prefix cache would give a sequence."""
        ...

    def start(self, flight: Flight, hit: Hit) -> None:
        """Let a sequence without blocks start from a hit."""
        ...

    def grow(self, flight: Flight, blocks: int) -> None:
        """Give a sequence more blocks; there must be as many."""
        ...

    def keep(self, flight: Flight) -> None:
        """Make the full blocks of a computed prompt findable."""
        ...

    def shared(self, flight: Flight) -> int:
        """Blocks of a sequence that others hold too."""
        ...

    def leave(self, flight: Flight) -> None:
        """Take all blocks of a sequence back."""
        ...


class Counted:
    """Blocks that are alike: no prefix is ever found."""

    def __init__(self, total: int, block_tokens: int) -> None:
        self.total = total
        self.block_tokens = block_tokens
        self.available = total

    def hit(self, job: Job, known_tokens: int) -> Hit:
        """See `Memory.hit`."""
        return NO_HIT

    def start(self, flight: Flight, hit: Hit) -> None:
        """See `Memory.start`."""

    def grow(self, flight: Flight, blocks: int) -> None:
        """See `Memory.grow`."""
        assert blocks <= self.available, f"{blocks} blocks wanted, {self.available} available"
        self.available -= blocks

    def keep(self, flight: Flight) -> None:
        """See `Memory.keep`."""

    def shared(self, flight: Flight) -> int:
        """See `Memory.shared`."""
        return 0

    def leave(self, flight: Flight) -> None:
        """See `Memory.leave`."""
        self.available += flight.live.held_blocks


class Prefixes:
    """The engine's own `BlockPool`, blocks named by hash ids instead of tokens."""

    def __init__(self, total: int, block_tokens: int) -> None:
        if HASH_TOKENS % block_tokens:
            raise ValueError(
                f"block_tokens is {block_tokens}: it must divide {HASH_TOKENS}, the tokens of a "
                "hash id"
            )
        self.pool = BlockPool(total, block_tokens)
        self.total = total
        self.block_tokens = block_tokens

    @property
    def available(self) -> int:
        """See `Memory.available`."""
        return self.pool.available

    def hit(self, job: Job, known_tokens: int) -> Hit:
        """See `Memory.hit`."""
        return self.pool.lookup(self._names(job), known_tokens)

    def start(self, flight: Flight, hit: Hit) -> None:
        """See `Memory.start`."""
        flight.holding = Holding()
        flight.kept_blocks = len(hit.blocks)
        self.pool.take(flight.holding, hit)

    def grow(self, flight: Flight, blocks: int) -> None:
        """See `Memory.grow`."""
        self.pool.grow(flight.holding, blocks)

    def keep(self, flight: Flight) -> None:
        """See `Memory.keep`."""
        names = self._names(flight.job)
        full = min(flight.live.cached_tokens // self.block_tokens, len(names))
        for index in range(flight.kept_blocks, full):
            self.pool.keep(flight.holding, index, names[index])
        flight.kept_blocks = max(full, flight.kept_blocks)

    def shared(self, flight: Flight) -> int:
        """See `Memory.shared`."""
        return flight.holding.shared

    def leave(self, flight: Flight) -> None:
        """See `Memory.leave`."""
        self.pool.release(flight.holding)

    def _names(self, job: Job) -> list[bytes]:
        """The names of a prompt's full blocks, as far as its hash ids reach."""
        parts = HASH_TOKENS // self.block_tokens
        names = [
            hash_id.to_bytes(8, "little", signed=True) + part.to_bytes(2, "little")
            for hash_id in job.hash_ids
            for part in range(parts)
        ]
        return names[: job.request.prompt_tokens // self.block_tokens]
