"""The back end "fused_infer": attention by Ascend's fused operator, beside torch_npu's small ones.

Nothing here imports torch_npu before it's used.
"""

from .operators import NpuOperators
from .trial import load, tried

__all__ = ["NpuOperators", "load", "tried"]
