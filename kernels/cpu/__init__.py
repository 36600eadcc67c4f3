"""The back end "cpu": C++ kernels for AVX2, AVX-512 and AVX-512 with bfloat16 products."""

from .build import warn_if_stale
from .isa import ISAS, available_isas
from .operators import CpuOperators

__all__ = ["ISAS", "CpuOperators", "available_isas"]

warn_if_stale()
