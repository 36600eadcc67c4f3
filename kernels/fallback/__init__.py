"""The back end "torch": plain tensor operations that run on any device and in any floating type."""

from .operators import TorchOperators

__all__ = ["TorchOperators"]
