"""Changes a row of logits before a token is chosen: penalties, bias, forbidden tokens.

V is the vocabulary. The penalties are those of the OpenAI API (presence, frequency: subtracted) and
of Hugging Face transformers (repetition: divides a positive logit, multiplies a negative one).
"""

import numpy as np
from numpy.typing import NDArray

from .draw import Draw, TokenCounts

Logits = NDArray[np.float32]


def adjust(raw_V: Logits, draw: Draw) -> Logits:
    """A copy of a row with everything applied that `draw` asks for."""
    logits_V = raw_V.copy()
    sampling = draw.sampling
    if draw.counts is not None:
        _penalise_repetition(logits_V, draw.counts, sampling.repetition_penalty)
        _penalise_counts(
            logits_V, draw.counts, sampling.presence_penalty, sampling.frequency_penalty
        )
    if sampling.logit_bias:
        ids = np.fromiter(sampling.logit_bias.keys(), dtype=np.int64)
        logits_V[ids] += np.fromiter(sampling.logit_bias.values(), dtype=np.float32)
    logits_V[list(draw.forbidden)] = -np.inf
    return logits_V


def _penalise_repetition(logits_V: Logits, counts: TokenCounts, penalty: float) -> None:
    """What prompt or output hold already becomes less likely."""
    if penalty == 1.0:
        return
    ids = counts.seen()
    seen = logits_V[ids]
    logits_V[ids] = np.where(seen > 0, seen / penalty, seen * penalty)


def _penalise_counts(
    logits_V: Logits, counts: TokenCounts, presence: float, frequency: float
) -> None:
    """What the output holds becomes less likely, once and for every time it was said."""
    if counts.output and (presence or frequency):
        ids, times = counts.said()
        logits_V[ids] -= presence + frequency * times
