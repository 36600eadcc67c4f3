"""GGUF's types and the sizes of their blocks, in numbers and bytes. Imports no torch."""

from __future__ import annotations

from functools import cache

F32, F16, BF16 = 0, 1, 30
Q4_0, Q4_1, Q5_0, Q8_0, Q4_K, Q6_K = 2, 3, 6, 8, 12, 14

# type: (numbers, bytes) of a block; `gguf` has the full table, but takes a second to import
BLOCKS = {
    F32: (1, 4),
    F16: (1, 2),
    BF16: (1, 2),
    Q4_0: (32, 18),
    Q4_1: (32, 20),
    Q5_0: (32, 22),
    Q8_0: (32, 34),
    Q4_K: (256, 144),
    Q6_K: (256, 210),
}


@cache
def block_shape(kind: int) -> tuple[int, int]:
    """(numbers, bytes) of one block of the type.

    Raises:
        ValueError: there's no such type.
    """
    if kind in BLOCKS:
        return BLOCKS[kind]
    from gguf import GGML_QUANT_SIZES, GGMLQuantizationType

    try:
        numbers, nbytes = GGML_QUANT_SIZES[GGMLQuantizationType(kind)]
    except (KeyError, ValueError):
        raise ValueError(f"type {kind} is unknown; supported: the types of `gguf.quants`") from None
    return int(numbers), int(nbytes)
