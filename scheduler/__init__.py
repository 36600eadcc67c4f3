"""Multi-SLO planning in pure Python: what the next step of a replica computes.

Importing this package imports no torch. A policy takes a `Snapshot` and returns a
`hfx.request.Plan`; `FirstComeFirstServed` is the baseline.
"""

from .fcfs import FirstComeFirstServed
from .policy import Blocks, Live, Snapshot, StepPolicy

__all__ = ["Blocks", "FirstComeFirstServed", "Live", "Snapshot", "StepPolicy"]
