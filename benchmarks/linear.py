"""Packed linear layers against torch's F.linear on the bundled model's shapes, and the roofs.

Weights are taken in turn from enough copies that they come from memory, as in a model's step.
Dimensions: M rows (tokens), I inputs, O outputs.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import cycle
from typing import Any

import torch
from torch.nn.functional import linear

from hfx.bench.record import Record
from hfx.kernels import Operators, select
from hfx.kernels.operators import LinearWeights

from . import limits
from .record import finish, parser, print_rows
from .timing import medians_s

SHAPES = {  # SmolLM2-135M: outputs, inputs
    "qkv": (960, 576),
    "attention out": (576, 576),
    "gate and up": (3072, 576),
    "down": (576, 1536),
    "head": (49152, 576),
}
ROWS = (1, 8, 16, 64, 512)
COPIES_BYTES = 128 << 20  # more than a cache holds
TOLERANCE = 2e-2  # relative to the largest result, of bf16


def in_turn(call: Callable[[Any], object], copies: Sequence[Any]) -> Callable[[], object]:
    """A call on the next of the copies each time."""
    turn = cycle(copies)
    return lambda: call(next(turn))


@dataclass(frozen=True, slots=True)
class Layer:
    """One weight, as many times as it takes to come from memory, plain and packed."""

    name: str
    plain: list[torch.Tensor]
    packed: list[LinearWeights]

    @classmethod
    def of(cls, name: str, ops: Operators) -> "Layer":
        torch.manual_seed(0)
        outputs, inputs = SHAPES[name]
        weight = (torch.randn(outputs, inputs) / inputs**0.5).bfloat16()
        plain = [weight.clone() for _ in range(max(1, COPIES_BYTES // weight.nbytes))]
        return cls(name, plain, [ops.pack_linear(copy) for copy in plain])

    def error(self, ops: Operators, x_MI: torch.Tensor) -> float:
        """How far the packed form is from float64, relative to the largest result.

        Raises:
            ArithmeticError: further than bf16 explains: it is not to be timed.
        """
        expected = x_MI.double() @ self.plain[0].double().T
        off = (ops.linear(x_MI, self.packed[0]) - expected).abs().max() / expected.abs().max()
        if not off < TOLERANCE:
            raise ArithmeticError(f"{self.name}, {len(x_MI)} rows: off by {off}: not timed")
        return float(off)


def measure(
    layer: Layer, ops: Operators, rows: int, roofs: limits.Limits, rounds: int
) -> dict[str, Any]:
    """One row: the error against float64, both times, the share of the nearer roof."""
    weight_OI = layer.plain[0]
    x_MI = torch.randn(rows, weight_OI.shape[1]).bfloat16()
    error = layer.error(ops, x_MI)
    times = medians_s(
        {
            "packed": in_turn(lambda weight: ops.linear(x_MI, weight), layer.packed),
            "torch": in_turn(lambda weight: linear(x_MI, weight), layer.plain),
        },
        rounds=rounds,
    )
    flops = 2 * rows * weight_OI.numel()
    least_s = max(weight_OI.nbytes / roofs.read_bytes_per_s, flops / roofs.bf16_flops_per_s)
    return {
        "layer": layer.name,
        "rows": rows,
        "error": error,
        "packed_us": times["packed"] * 1e6,
        "torch_us": times["torch"] * 1e6,
        "speedup": times["torch"] / times["packed"],
        "least_us": least_s * 1e6,
        "of_limit": least_s / times["packed"],
    }


def main() -> None:
    options = parser(__doc__.splitlines()[0]).parse_args()
    record = Record("linear")
    roofs = limits.measure(3 if options.quick else 7)
    rounds = 3 if options.quick else 15
    ops = select("cpu")
    for name in SHAPES:
        layer = Layer.of(name, ops)
        for rows in ROWS:
            record.rows.append(measure(layer, ops, rows, roofs, rounds))
    print_rows(record.rows)
    record.summary = {
        "read_gb_per_s": roofs.read_bytes_per_s / 1e9,
        "bf16_gflops_per_s": roofs.bf16_flops_per_s / 1e9,
        "least_speedup": min(row["speedup"] for row in record.rows),
        "least_of_limit": min(row["of_limit"] for row in record.rows),
    }
    finish(record, options)


if __name__ == "__main__":
    main()
