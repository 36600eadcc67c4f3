"""Who holds which block of the key-value pool, and which prefixes are worth keeping.

Pure Python: blocks are numbers, keys and values live elsewhere. Sizes are blocks of `block_tokens`
tokens.
"""

from .chain import PrefixChain
from .pool import BlockPool, Hit, Holding

__all__ = ["BlockPool", "Hit", "Holding", "PrefixChain"]
