"""The back end "triton": one source for NVIDIA and AMD GPUs.

Under Triton's interpreter (TRITON_INTERPRET=1) it runs on the CPU too, for tests.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .operators import TritonOperators as TritonOperators

__all__ = ["TritonOperators"]


if not TYPE_CHECKING:

    def __getattr__(name: str) -> object:
        # Lazy: Ascend's Triton runs the attention kernel but is too old for these launchers.
        if name not in __all__:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        from .operators import TritonOperators

        return TritonOperators
