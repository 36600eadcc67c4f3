"""Multi-SLO planning in pure Python: what the next step of a replica computes.

Importing this package imports no torch. A policy takes a `Snapshot` and returns a
`hfx.request.Plan`. `SlackPolicy` keeps promises of many kinds side by side; the others are what it
is compared with.
"""

from .admission import Admission, Outlook, reachable
from .fcfs import FirstComeFirstServed
from .fixed import EarliestDueFirst, Priority, ShortestPromptFirst
from .lengths import Lengths
from .policies import POLICIES, admission, build
from .policy import Blocks, Live, Snapshot, StepPolicy
from .relatives import HfxReconstruction, QoServeLike, ScorpioLike
from .step import SlackPolicy

__all__ = [
    "POLICIES",
    "Admission",
    "Blocks",
    "EarliestDueFirst",
    "FirstComeFirstServed",
    "HfxReconstruction",
    "Lengths",
    "Live",
    "Outlook",
    "Priority",
    "QoServeLike",
    "ScorpioLike",
    "ShortestPromptFirst",
    "SlackPolicy",
    "Snapshot",
    "StepPolicy",
    "admission",
    "build",
    "reachable",
]
