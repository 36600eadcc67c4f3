"""Owns the blocks of one key-value pool: every block is free, idle, or held by sequences.

A free block holds nothing. An idle block is held by nobody but keeps a prefix that may be hit
again; the one that was left longest ago is evicted first. A held block belongs to one or more
`Holding`s. All operations are O(1) per block.
"""

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass


class Holding:
    """The blocks of one sequence, in the order of its tokens.

    `shared` counts those that another holding has too. Changed by its pool only.
    """

    __slots__ = ("blocks", "shared")

    def __init__(self) -> None:
        self.blocks: list[int] = []
        self.shared = 0


@dataclass(frozen=True, slots=True)
class Hit:
    """Cached blocks that a sequence could start from; `idle` of them are held by nobody."""

    blocks: tuple[int, ...] = ()
    idle: int = 0


class BlockPool:
    """The blocks 0 to `total - 1` of `block_tokens` tokens each, and the prefixes that they keep.

    Raises:
        ValueError: no block, or a block without tokens.
    """

    def __init__(self, total: int, block_tokens: int, *, prefix_caching: bool = True) -> None:
        if total < 1 or block_tokens < 1:
            raise ValueError(
                f"a pool of {total} blocks of {block_tokens} tokens: both must be at least 1"
            )
        self.total = total
        self.block_tokens = block_tokens
        self.prefix_caching = prefix_caching
        self._free = list(range(total - 1, -1, -1))
        self._idle: OrderedDict[int, None] = OrderedDict()  # first: left longest ago
        self._holders: list[dict[Holding, None]] = [{} for _ in range(total)]
        self._name: list[bytes | None] = [None] * total
        self._named: dict[bytes, int] = {}

    @property
    def available(self) -> int:
        """Blocks that can be taken now: free ones, and idle ones by forgetting their prefix."""
        return len(self._free) + len(self._idle)

    @property
    def idle(self) -> int:
        """Blocks that nobody holds and that keep a prefix."""
        return len(self._idle)

    def blocks_for(self, tokens: int) -> int:
        """Blocks that `tokens` tokens of one sequence occupy."""
        return -(-tokens // self.block_tokens)

    def lookup(self, names: Sequence[bytes], known_tokens: int) -> Hit:
        """The longest cached prefix of a sequence of `known_tokens` tokens, without taking it.

        It never covers the whole sequence: at least one token is left to compute, because the next
        token is predicted from it.
        """
        if not self.prefix_caching:
            return Hit()
        blocks: list[int] = []
        idle = 0
        for name in names[: (known_tokens - 1) // self.block_tokens]:
            block = self._named.get(name)
            if block is None:
                break
            blocks.append(block)
            idle += not self._holders[block]
        return Hit(tuple(blocks), idle)

    def take(self, holding: Holding, hit: Hit) -> None:
        """Let a holding that has no blocks start from a hit.

        Take every hit of a step before anything grows: growing may evict what was looked up.
        """
        assert not holding.blocks, "a hit is where a sequence starts"
        for block in hit.blocks:
            assert self._name[block] is not None, f"block {block} was evicted since the lookup"
            if not self._holders[block]:
                del self._idle[block]
            self._hold(holding, block)

    def grow(self, holding: Holding, blocks: int) -> list[int]:
        """Add fresh blocks to a holding and name them; evicts idle prefixes where none is free."""
        assert blocks <= self.available, f"{blocks} blocks wanted, {self.available} available"
        fresh = [self._fresh() for _ in range(blocks)]
        for block in fresh:
            self._hold(holding, block)
        return fresh

    def keep(self, holding: Holding, index: int, name: bytes) -> None:
        """Make the full block at `index` of a holding findable under its name.

        Its keys and values must have been written. Another block of that name stays the one found.
        """
        block = holding.blocks[index]
        if self.prefix_caching and self._name[block] is None and name not in self._named:
            self._name[block] = name
            self._named[name] = block

    def release(self, holding: Holding) -> None:
        """Give all blocks of a holding back; those that keep a prefix stay findable."""
        for block in reversed(holding.blocks):  # a prefix's end is evicted before its beginning
            self._let_go(holding, block)
            if self._holders[block]:
                continue
            if self._name[block] is None:
                self._free.append(block)
            else:
                self._idle[block] = None
        holding.blocks.clear()
        holding.shared = 0

    def forget(self, holding: Holding) -> None:
        """Make a holding's blocks findable no longer, for when their contents can't be trusted."""
        for block in holding.blocks:
            self._unname(block)

    def clear_prefixes(self) -> None:
        """Forget every prefix; idle blocks become free."""
        for block in list(self._named.values()):
            self._unname(block)
        self._free.extend(self._idle)
        self._idle.clear()

    def check(self) -> None:
        """Assert what must always hold: no block lost, none in two states, counts that agree."""
        held = [block for block in range(self.total) if self._holders[block]]
        assert sorted([*self._free, *self._idle, *held]) == list(range(self.total))
        assert all(self._name[block] is None for block in self._free)
        assert all(self._name[block] is not None for block in self._idle)
        assert {name: block for block, name in enumerate(self._name) if name} == self._named
        for holding in {holder for block in held for holder in self._holders[block]}:
            assert all(holding in self._holders[block] for block in holding.blocks)
            shared = sum(len(self._holders[block]) > 1 for block in holding.blocks)
            assert holding.shared == shared, f"{holding.shared} blocks counted, {shared} shared"

    def _fresh(self) -> int:
        if self._free:
            return self._free.pop()
        block, _ = self._idle.popitem(last=False)
        self._unname(block)
        return block

    def _hold(self, holding: Holding, block: int) -> None:
        holders = self._holders[block]
        if len(holders) == 1:
            next(iter(holders)).shared += 1
        holding.shared += bool(holders)
        holders[holding] = None
        holding.blocks.append(block)

    def _let_go(self, holding: Holding, block: int) -> None:
        holders = self._holders[block]
        del holders[holding]
        if len(holders) == 1:
            next(iter(holders)).shared -= 1

    def _unname(self, block: int) -> None:
        name = self._name[block]
        if name is not None:
            del self._named[name]
            self._name[block] = None
