"""What a replica's prefix cache probably holds: the blocks of prompts that were sent to it. Tokens.

Names are the cache's own (`hfx.cache.chain`). As many are remembered as the replica has blocks,
those touched last; what the replica reports of a real hit corrects the rest.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence

from hfx.cache import PrefixChain
from hfx.request import Request

MOST_BLOCKS = 65536  # remembered per replica, however large its cache


def names_of(request: Request, block_tokens: int) -> list[bytes]:
    """The names of a prompt's full blocks, in order."""
    chain = PrefixChain(block_tokens, request.cache_salt)
    return chain.extend(array("i", request.prompt_token_ids))


class Remembered:
    """The blocks of one replica, oldest first."""

    def __init__(self, blocks: int, block_tokens: int) -> None:
        self._most = min(blocks, MOST_BLOCKS)
        self._block_tokens = block_tokens
        self._names: dict[bytes, None] = {}

    def __len__(self) -> int:
        return len(self._names)

    def hit_tokens(self, names: Sequence[bytes], prompt_tokens: int) -> int:
        """How much of a prompt it holds; at least one token is always left to compute."""
        count = 0
        for name in names:
            if name not in self._names:
                break
            count += 1
        return min(count, (prompt_tokens - 1) // self._block_tokens) * self._block_tokens

    def touch(self, names: Sequence[bytes]) -> None:
        """A prompt goes there: its blocks will be the ones touched last."""
        known = self._names
        for name in reversed(names):  # the end of a prompt is evicted before its start
            known.pop(name, None)
            known[name] = None
        while len(known) > self._most:
            del known[next(iter(known))]

    def correct(self, names: Sequence[bytes], hit_tokens: int) -> None:
        """The replica has found so much of a prompt only: forget the blocks behind that.

        They are about to be computed, so that they are known again at once: `touch` follows.
        """
        for name in names[hit_tokens // self._block_tokens :]:
            self._names.pop(name, None)
