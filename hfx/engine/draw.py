"""How one row's next token is drawn: its sampling, its own randomness, what was said before.

A draw's randomness is a function of the request's seed and the token's index alone, so a seeded
request gives the same text whatever it is batched with and however often it is preempted.
"""

from collections import Counter
from dataclasses import dataclass
from hashlib import blake2b

import numpy as np
from numpy.typing import NDArray

from hfx.request import Sampling

UNIFORM_BITS = 48  # well inside a float64, so that no rounding reaches 1


class TokenCounts:
    """Which tokens a request has seen and said, for its penalties."""

    __slots__ = ("output", "prompt")

    def __init__(self, prompt: frozenset[int]) -> None:
        self.prompt = prompt
        self.output: Counter[int] = Counter()

    def seen(self) -> NDArray[np.int64]:
        """Every token id of prompt and output, once each."""
        ids = self.prompt.union(self.output)
        return np.fromiter(ids, dtype=np.int64, count=len(ids))

    def said(self) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """The ids of the output, once each, and how often each was said."""
        size = len(self.output)
        ids = np.fromiter(self.output.keys(), dtype=np.int64, count=size)
        return ids, np.fromiter(self.output.values(), dtype=np.float32, count=size)


@dataclass(frozen=True, slots=True)
class Draw:
    """One row to sample: output token number `index` (0 is the first) of a request.

    `forbidden` token ids may not be drawn. `counts` is None for a request without penalties.
    """

    sampling: Sampling
    seed: str
    index: int
    forbidden: tuple[int, ...] = ()
    counts: TokenCounts | None = None

    @property
    def adjusts(self) -> bool:
        """Whether the model's logits are changed before a token is chosen."""
        return bool(self.counts is not None or self.forbidden or self.sampling.logit_bias)

    def uniform(self) -> float:
        """This draw's random number, in [0, 1)."""
        digest = blake2b(f"{self.seed}/{self.index}".encode(), digest_size=UNIFORM_BITS // 8)
        return int.from_bytes(digest.digest(), "little") / (1 << UNIFORM_BITS)


def has_penalties(sampling: Sampling) -> bool:
    """Whether what was said before changes what is likely next."""
    return bool(
        sampling.presence_penalty
        or sampling.frequency_penalty
        or sampling.repetition_penalty != 1.0
    )
