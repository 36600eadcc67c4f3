"""Fleets on a virtual clock: the server's own schedulers, each step as long as prices say."""

from .device import Device
from .fleet import Fleet, Result
from .job import Fate, Job
from .replica import Replica

__all__ = ["Device", "Fate", "Fleet", "Job", "Replica", "Result"]
