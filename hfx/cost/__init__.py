"""What work costs in seconds: the one currency that scheduler, admission and simulator share.

A `CostModel` prices a step from its `Mix`; planning asks for the inverse: how many prompt tokens
fit into a slack.
"""

from hfx.request import Mix

from .devices import DEVICES, Device, device
from .estimate import MOST_TOKENS, CostModel, Estimate
from .fitting import fit, judge
from .gemm import GemmCost
from .link import Link, Startup
from .named import named
from .online import Accuracy, OnlineCost
from .presets import preset
from .profile import load, require, save
from .regime import Piece, Regime
from .roofline import Sizes, roofline
from .step import Fit, Key, Limits, StepCost

__all__ = [
    "DEVICES",
    "MOST_TOKENS",
    "Accuracy",
    "CostModel",
    "Device",
    "Estimate",
    "Fit",
    "GemmCost",
    "Key",
    "Limits",
    "Link",
    "Mix",
    "OnlineCost",
    "Piece",
    "Regime",
    "Sizes",
    "Startup",
    "StepCost",
    "device",
    "fit",
    "judge",
    "load",
    "named",
    "preset",
    "require",
    "roofline",
    "save",
]
