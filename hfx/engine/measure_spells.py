"""Takes slow spells of the whole machine out of measurements: others use its cores too.

Steps of different shapes that follow one another share the machine's state of that moment. Where
all of them take longer than a model of all steps says, it is the moment and not their shapes.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from hfx.cost import Key, StepCost, fit
from hfx.request import Mix

NEIGHBOURS = 3  # steps before and as many after that tell the state of a moment
UNDISTURBED = 0.25  # quantile of the moments that count as such
LEAST = 1.1  # times slower than an undisturbed moment: what is less may be the model's own error
ROUNDS = 2  # the second one sees slow spells by a model that has fewer of them in it


def without_slow_spells(
    steps: Sequence[tuple[Mix, float]], key: Key, prior: StepCost
) -> list[tuple[Mix, float]]:
    """The steps, given in the order in which they ran, with the seconds of a quiet machine.

    A step is only ever shortened, and on a quiet machine none is.
    """
    seconds = np.array([s for _, s in steps])
    steady = list(steps)
    for _ in range(ROUNDS):
        model = fit(steady, key=key, prior=prior)
        slower = seconds / np.array([model.step_s(mix).mean_s for mix, _ in steps])
        steady = [
            (mix, s / factor)
            for (mix, s), factor in zip(steps, slow_down(slower).tolist(), strict=True)
        ]
    return steady


def slow_down(slower: NDArray[np.float64]) -> NDArray[np.float64]:
    """How many times each moment slowed its step, from actual over predicted times."""
    moments = np.array(
        [np.median(slower[max(0, i - NEIGHBOURS) : i + NEIGHBOURS + 1]) for i in range(len(slower))]
    )
    factors: NDArray[np.float64] = moments / np.quantile(moments, UNDISTURBED)
    return np.where(factors > LEAST, factors, 1.0)
