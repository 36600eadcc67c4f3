"""The back end "triton": one source for NVIDIA and AMD GPUs.

Under Triton's interpreter (TRITON_INTERPRET=1) it runs on the CPU too, for tests.

What a launch is compiled for, so that everything may be compiled before the first request:

- names in capitals, which are constants. Of attention they follow from the `AttentionSpec` and from
  the specialisation's `Launch` (`configs.constants`), never from a batch; of the other kernels from
  the model's sizes (`PAIRS` and `R` from the rotary table, `HAS_RESIDUAL` and `WRITES` from which
  operator was called). `num_warps` and `num_stages` belong to them.
- the types of tensors, and whether one is there at all (sinks, scales, a residual).
- whether an address is a multiple of 16 bytes: those of a step's lists are, those of activations
  are where a model's projections are laid out so, which no batch changes.
- whether an integer is 1, a multiple of 16, or neither. All are strides of rows but for `V` and
  `width`, which the model fixes; only `table_stride`, the pages in a row of the table, is up to the
  batch. Whoever makes it a multiple of 16 (`room.COLUMNS_STEP`) always launches the same kernel.
- not numbers with a fraction (`score_scale`, `softcap`, `eps`), not the grid, and nothing of what
  the lists hold: counts, lengths and pages are read on the device.

Per spec, attention is at most three kernels (prompt, decode, mixed), `reduce_splits` one for each
of them. `compiles.watch` counts what is compiled.
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
