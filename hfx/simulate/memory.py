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


class Reserved:
    """Blocks that are kept for a sequence that is on its way."""

    __slots__ = ("blocks", "holding")

    def __init__(self) -> None:
        self.blocks = 0
        self.holding = Holding()


class Memory(Protocol):
    """Who holds how many blocks of `block_tokens` tokens."""

    total: int
    block_tokens: int
    finds: bool  # whether prefixes are ever found

    @property
    def available(self) -> int:
        """Blocks that can be taken now."""
        ...

    def hit(self, flight: Flight) -> Hit:
        """What the prefix cache would give a sequence."""
        ...

    def start(self, flight: Flight, hit: Hit) -> None:
        """Let a sequence without blocks start from a hit."""
        ...

    def grow(self, flight: Flight, blocks: int) -> None:
        """Give a sequence more blocks; there must be as many."""
        ...

    def keep(self, flight: Flight) -> None:
        """Make the full blocks of what was computed findable."""
        ...

    def shared(self, flight: Flight) -> int:
        """Blocks of a sequence that others hold too."""
        ...

    def leave(self, flight: Flight) -> None:
        """Take all blocks of a sequence back."""
        ...

    def reserve(self, reserved: Reserved, blocks: int) -> None:
        """Keep more blocks for a sequence to come; there must be as many."""
        ...

    def unreserve(self, reserved: Reserved) -> None:
        """It will not come: take the blocks back."""
        ...

    def settle(self, flight: Flight, reserved: Reserved) -> None:
        """It has come: what was reserved is what it holds."""
        ...


class Counted:
    """Blocks that are alike: no prefix is ever found."""

    finds = False

    def __init__(self, total: int, block_tokens: int) -> None:
        self.total = total
        self.block_tokens = block_tokens
        self.available = total

    def hit(self, flight: Flight) -> Hit:
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

    def reserve(self, reserved: Reserved, blocks: int) -> None:
        """See `Memory.reserve`."""
        assert blocks <= self.available, f"{blocks} blocks wanted, {self.available} available"
        self.available -= blocks
        reserved.blocks += blocks

    def unreserve(self, reserved: Reserved) -> None:
        """See `Memory.unreserve`."""
        self.available += reserved.blocks
        reserved.blocks = 0

    def settle(self, flight: Flight, reserved: Reserved) -> None:
        """See `Memory.settle`."""


class Prefixes:
    """The engine's own `BlockPool`, blocks named by hash ids instead of tokens."""

    finds = True

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

    def hit(self, flight: Flight) -> Hit:
        """See `Memory.hit`."""
        known_tokens = flight.live.known_tokens
        return self.pool.lookup(self._names(flight, known_tokens), known_tokens)

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
        full = flight.live.cached_tokens // self.block_tokens
        if full > flight.kept_blocks:
            names = self._names(flight, flight.live.cached_tokens)
            for index in range(flight.kept_blocks, min(full, len(names))):
                self.pool.keep(flight.holding, index, names[index])
            flight.kept_blocks = full

    def shared(self, flight: Flight) -> int:
        """See `Memory.shared`."""
        return flight.holding.shared

    def leave(self, flight: Flight) -> None:
        """See `Memory.leave`."""
        self.pool.release(flight.holding)

    def reserve(self, reserved: Reserved, blocks: int) -> None:
        """See `Memory.reserve`."""
        self.pool.grow(reserved.holding, blocks)
        reserved.blocks += blocks

    def unreserve(self, reserved: Reserved) -> None:
        """See `Memory.unreserve`."""
        self.pool.release(reserved.holding)
        reserved.blocks = 0

    def settle(self, flight: Flight, reserved: Reserved) -> None:
        """See `Memory.settle`."""
        flight.holding = reserved.holding
        flight.kept_blocks = 0

    def _names(self, flight: Flight, tokens: int) -> list[bytes]:
        """The names of the full blocks of so many tokens: by hash id as far as the prompt has such,
        then its own, which only itself can hit once it was preempted."""
        names, full = flight.names, tokens // self.block_tokens
        if not names:
            names.extend(self._prompt_names(flight.job))
        if len(flight.job.hash_ids) * HASH_TOKENS >= flight.job.request.prompt_tokens:
            own = flight.live.request.id.encode()
            names.extend(own + b"/%d" % n for n in range(len(names), full))
        return names

    def _prompt_names(self, job: Job) -> list[bytes]:
        parts = HASH_TOKENS // self.block_tokens
        names = [
            hash_id.to_bytes(8, "little", signed=True) + part.to_bytes(2, "little")
            for hash_id in job.hash_ids
            for part in range(parts)
        ]
        return names[: job.request.prompt_tokens // self.block_tokens]
