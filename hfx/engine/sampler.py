"""Chooses the next token of each row of logits, on the host.

R rows, V vocabulary. Logits are adjusted (penalties, bias, forbidden tokens), divided by the
temperature, cut (min_p, then top_k, then top_p), and a token is drawn by inverting the cumulative
distribution at the row's own random number. A row's outcome depends on nothing but that row.

In numpy and one thread: a step's rows are few, and to wake a pool of threads costs more than it
saves.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from hfx.request import Sampling

from .adjust import adjust
from .batch import Sampled
from .delta import TokenLogprob
from .draw import Draw

NO_NUMBER = "the model's logits hold no finite maximum: its weights or its cache are damaged"
STRIDE = 512  # of the two-level cumulative sum: about the square root of a vocabulary, rounded up

Logits = NDArray[np.float32]


def sample(logits_RV: Logits, draws: Sequence[Draw]) -> list[Sampled]:
    """One token per row; the logits are left as they are.

    A row whose logits hold NaN or no finite maximum becomes an error; other rows are not affected.
    """
    best_R = logits_RV.argmax(axis=1)  # of a row with NaN: where it is
    return [
        _sample_row(logits_V, int(best), draw)
        for logits_V, best, draw in zip(logits_RV, best_R, draws, strict=True)
    ]


def _sample_row(raw_V: Logits, best: int, draw: Draw) -> Sampled:
    if not np.isfinite(raw_V[best]):
        return Sampled(-1, error=NO_NUMBER)
    logits_V = raw_V
    if draw.adjusts:
        logits_V = adjust(raw_V, draw)
        best = int(logits_V.argmax())
        if not np.isfinite(logits_V[best]):
            return Sampled(-1, error="no token is left to choose: bias or stop tokens forbid all")
    sampling = draw.sampling
    token_id = best
    if not sampling.is_greedy:
        token_id = index_at(cut_weights(logits_V, best, sampling), draw.uniform())
    if sampling.logprobs is None:
        return Sampled(token_id)
    return Sampled(token_id, logprob_of(raw_V, token_id, sampling.logprobs))


def cut_weights(logits_V: Logits, best: int, sampling: Sampling) -> Logits:
    """Weights in proportion to what temperature, min_p, top_k and top_p leave of each token.

    min_p drops tokens by their probability relative to the best one's; top_k keeps the k most
    likely of those, and top_p the fewest of these that hold that share. Equals are kept together.
    """
    weights_V: Logits = np.exp((logits_V - logits_V[best]) / np.float32(sampling.temperature))
    if sampling.min_p > 0.0:
        weights_V[weights_V < sampling.min_p] = 0.0
    if 0 < sampling.top_k < len(weights_V):
        kth = len(weights_V) - sampling.top_k
        weights_V[weights_V < np.partition(weights_V, kth)[kth]] = 0.0
    if sampling.top_p < 1.0:
        weights_V[weights_V < _nucleus_floor(weights_V, sampling.top_p)] = 0.0
    return weights_V


def _nucleus_floor(weights_V: Logits, top_p: float) -> np.float32:
    """The least weight in the smallest set of the heaviest tokens that holds the share `top_p`.

    Tokens no heavier than (1 - top_p) / V of the whole hold at most 1 - top_p together, so the set
    needs none of them, and only the others are sorted.
    """
    total = weights_V.sum(dtype=np.float64)
    heavy = weights_V[weights_V > (1.0 - top_p) * total / len(weights_V)]
    heavy = np.sort(heavy)[::-1]
    cut = int(np.searchsorted(heavy.cumsum(dtype=np.float64), top_p * total))
    return np.float32(heavy[min(cut, len(heavy) - 1)])


def index_at(weights_V: Logits, uniform: float) -> int:
    """The token at `uniform`, in [0, 1), of the cumulative distribution in order of token ids."""
    sums = np.add.reduceat(weights_V, np.arange(0, len(weights_V), STRIDE), dtype=np.float64)
    ends = sums.cumsum()
    part = int(np.searchsorted(ends, uniform * ends[-1], side="right"))
    before = ends[part] - sums[part]
    inner = weights_V[part * STRIDE : (part + 1) * STRIDE].cumsum(dtype=np.float64)
    found = int(np.searchsorted(inner, uniform * ends[-1] - before, side="right"))
    last = int(np.searchsorted(inner, inner[-1]))  # rounding must not reach a token of weight 0
    return part * STRIDE + min(found, last)


def logprob_of(raw_V: Logits, token_id: int, top: int) -> TokenLogprob:
    """How the model itself, before any adjustment, rates a token, and its `top` best ones."""
    best, top = raw_V.max(), min(top, len(raw_V))
    log_total = float(best) + float(np.log(np.exp(raw_V - best).sum(dtype=np.float64)))
    ids = np.argpartition(raw_V, -top)[-top:] if top else np.empty(0, dtype=np.int64)
    ids = ids[np.lexsort((ids, -raw_V[ids]))]
    return TokenLogprob(
        token_id,
        float(raw_V[token_id]) - log_total,
        int((raw_V > raw_V[token_id]).sum()) + 1,
        tuple((int(i), float(raw_V[i]) - log_total) for i in ids),
    )
