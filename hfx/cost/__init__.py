"""What work costs in seconds: the one currency that scheduler, admission and simulator share.

A `CostModel` prices a step from its `Mix`; planning asks for the inverse: how many prompt tokens
fit into a slack.
"""

from hfx.request import Mix

from .estimate import MOST_TOKENS, CostModel, Estimate
from .fit import fit, judge
from .link import Link, Startup
from .profile import load, save
from .regime import Piece, Regime
from .step import Fit, Key, Limits, StepCost

__all__ = [
    "MOST_TOKENS",
    "CostModel",
    "Estimate",
    "Fit",
    "Key",
    "Limits",
    "Link",
    "Mix",
    "Piece",
    "Regime",
    "Startup",
    "StepCost",
    "fit",
    "judge",
    "load",
    "save",
]
