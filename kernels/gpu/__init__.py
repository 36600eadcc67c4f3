"""The back end "triton": one source for NVIDIA and AMD GPUs.

Under Triton's interpreter (TRITON_INTERPRET=1) it runs on the CPU too, for tests.
"""

from .operators import TritonOperators

__all__ = ["TritonOperators"]
