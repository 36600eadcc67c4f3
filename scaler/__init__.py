"""Elastic scaling: when to add or remove replicas. Importing this package imports no torch.

A scaler is shown a `FleetView` and answers with orders. What is here so far is what a better one
will be compared with; moving weights from device to device arrives with its own capability.
"""

from .fixed import Static
from .hpa import Hpa, QueueLength
from .names import SCALERS, build_scaler
from .policy import FleetView, Order, ReplicaState, Scaler, Start, Stop, Totals, resize
from .velocity import TokenVelocity
from .violation import ViolationReactive

__all__ = [
    "SCALERS",
    "FleetView",
    "Hpa",
    "Order",
    "QueueLength",
    "ReplicaState",
    "Scaler",
    "Start",
    "Static",
    "Stop",
    "TokenVelocity",
    "Totals",
    "ViolationReactive",
    "build_scaler",
    "resize",
]
