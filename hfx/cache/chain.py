"""Names the full blocks of a sequence so that equal names mean equal tokens up to and in them.

A block's name is a 128-bit BLAKE2b digest of its parent's name and its own token ids, and the first
parent is the digest of the cache salt. Two different prefixes with one name are not to be expected
in the life of the universe, so a hit never serves the keys of another text.
"""

from array import array
from hashlib import blake2b

DIGEST_BYTES = 16


class PrefixChain:
    """The names of one sequence's full blocks, extended as its tokens become known."""

    __slots__ = ("_parent", "block_tokens", "names")

    def __init__(self, block_tokens: int, salt: str = "") -> None:
        self.block_tokens = block_tokens
        self.names: list[bytes] = []
        self._parent = blake2b(salt.encode(), digest_size=DIGEST_BYTES).digest()

    def extend(self, token_ids: "array[int]") -> list[bytes]:
        """All names, once those of the full blocks of `token_ids` that are new are added.

        `token_ids` holds the whole sequence from its first token; what was named before must not
        have changed.
        """
        size = self.block_tokens
        for start in range(len(self.names) * size, len(token_ids) - size + 1, size):
            digest = blake2b(self._parent, digest_size=DIGEST_BYTES)
            digest.update(token_ids[start : start + size].tobytes())
            self._parent = digest.digest()
            self.names.append(self._parent)
        return self.names
