"""GGUF's stored blocks as numbers, bit for bit what the `gguf` package's reference makes of them.

B blocks of 32 or 256 numbers each. The common types are vectorised here, in slices that stay in a
core's cache; every other type goes through `gguf.quants`, slowly.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from .gguf_blocks import BF16, F16, F32, Q4_0, Q4_1, Q4_K, Q5_0, Q6_K, Q8_0, block_shape

# Torch runs operations of up to this many elements on the calling thread, in its cache: no parallel
# region that stalls when a core is taken, and the loader's threads do whole tensors side by side.
SLICE_NUMBERS = 1 << 15


def dequantize(
    raw: torch.Tensor, kind: int, out: torch.Tensor, columns: slice = slice(None)
) -> None:
    """Write columns of the numbers in `raw` (uint8 [rows, bytes]) to `out` ([rows, columns]).

    Values are computed in float32 and rounded once, to out's type. Blocks without a wanted column
    are not read.

    Raises:
        ValueError: the type can't be dequantised.
    """
    assert out.dim() == 2 and raw.shape[0] == out.shape[0], (raw.shape, out.shape)
    block, nbytes = block_shape(kind)
    first, end, _ = columns.indices(raw.shape[1] // nbytes * block)
    start_block, end_block = first // block, -(-end // block)
    raw = raw[:, start_block * nbytes : end_block * nbytes]
    wanted = slice(first - start_block * block, end - start_block * block)
    rows = max(1, SLICE_NUMBERS // ((end_block - start_block) * block))
    for start in range(0, len(out), rows):
        piece = out[start : start + rows]
        blocks = raw[start : start + rows].reshape(-1, nbytes)
        expand = EXPAND.get(kind)
        numbers = expand(blocks) if expand else _by_reference(blocks, kind)
        piece.copy_(numbers.view(len(piece), -1)[:, wanted])


def _halves(blocks: torch.Tensor, start: int) -> torch.Tensor:
    """The float16 at byte `start` of every block, as float32 [B, 1]."""
    at = start // 2
    return blocks.view(torch.float16)[:, at : at + 1].float()


def _nibbles(packed: torch.Tensor) -> torch.Tensor:
    """The low halves of each row's bytes, then the high ones: uint8 [rows, 2 x bytes]."""
    pairs = packed.view(torch.int16)  # two bytes an operation
    rows, width = pairs.shape
    split = torch.empty(rows, 2, width, dtype=torch.int16)
    torch.bitwise_and(pairs, 0x0F0F, out=split[:, 0])
    torch.bitwise_and(pairs >> 4, 0x0F0F, out=split[:, 1])
    return split.view(rows, 2 * width).view(torch.uint8)


def _q4_0(blocks: torch.Tensor) -> torch.Tensor:
    return _nibbles(blocks[:, 2:]).float().sub_(8).mul_(_halves(blocks, 0))


def _q4_1(blocks: torch.Tensor) -> torch.Tensor:
    return _nibbles(blocks[:, 4:]).float().mul_(_halves(blocks, 0)).add_(_halves(blocks, 2))


def _q5_0(blocks: torch.Tensor) -> torch.Tensor:
    bits = torch.arange(8, dtype=torch.uint8)
    fifth = (blocks[:, 2:6].unsqueeze(2) >> bits & 1).view(-1, 32)
    x = _nibbles(blocks[:, 6:]) | (fifth << 4)
    return x.float().sub_(16).mul_(_halves(blocks, 0))


def _q8_0(blocks: torch.Tensor) -> torch.Tensor:
    return blocks[:, 2:].view(torch.int8).float().mul_(_halves(blocks, 0))


def _q4_k(blocks: torch.Tensor) -> torch.Tensor:
    """Eight runs of 32, each with a 6-bit scale and minimum packed into 12 bytes."""
    low, middle, high = blocks[:, 4:8], blocks[:, 8:12], blocks[:, 12:16]
    scale = torch.cat((low & 63, (high & 15) | ((low >> 2) & 48)), 1).float()
    least = torch.cat((middle & 63, (high >> 4) | ((middle >> 2) & 48)), 1).float()
    scale.mul_(_halves(blocks, 0))
    least.mul_(_halves(blocks, 2))
    x = _nibbles(blocks[:, 16:].reshape(-1, 32)).float().view(-1, 8, 32)
    return x.mul_(scale.unsqueeze(2)).sub_(least.unsqueeze(2))


def _q6_k(blocks: torch.Tensor) -> torch.Tensor:
    """Two halves of 128: four low bits from 64 bytes, two high ones from 32; a scale per 16."""
    x = _nibbles(blocks[:, :128].reshape(-1, 64)).view(-1, 2, 4, 32)
    shifts = torch.tensor([0, 2, 4, 6], dtype=torch.uint8).view(4, 1)
    x |= (blocks[:, 128:192].reshape(-1, 2, 1, 32) >> shifts & 3) << 4
    scale = blocks[:, 192:208].contiguous().view(torch.int8).float().mul_(_halves(blocks, 208))
    return x.view(-1, 16, 16).float().sub_(32).mul_(scale.unsqueeze(2))


EXPAND: dict[int, Callable[[torch.Tensor], torch.Tensor]] = {
    F32: lambda raw: raw.view(torch.float32),
    F16: lambda raw: raw.view(torch.float16),
    BF16: lambda raw: raw.view(torch.bfloat16),
    Q4_0: _q4_0,
    Q4_1: _q4_1,
    Q5_0: _q5_0,
    Q8_0: _q8_0,
    Q4_K: _q4_k,
    Q6_K: _q6_k,
}


def _by_reference(raw: torch.Tensor, kind: int) -> torch.Tensor:
    from gguf import GGMLQuantizationType
    from gguf.quants import dequantize as reference

    try:
        return torch.from_numpy(reference(raw.numpy(), GGMLQuantizationType(kind)))
    except NotImplementedError as error:
        name = GGMLQuantizationType(kind).name
        raise ValueError(f"type {name} can't be dequantised by gguf.quants") from error
