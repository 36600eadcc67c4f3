"""Multi-SLO planning in pure Python: what the next step of a replica computes.

Importing this package imports no torch. A policy takes a `Snapshot` and returns a
`hfx.request.Plan`; `FirstComeFirstServed` is the baseline.
"""

from .fcfs import FirstComeFirstServed
from .policies import POLICIES, build
from .policy import Blocks, Live, Snapshot, StepPolicy

__all__ = [
    "POLICIES",
    "Blocks",
    "FirstComeFirstServed",
    "Live",
    "Snapshot",
    "StepPolicy",
    "build",
]
