"""What this machine can do at most: bytes read per second, bf16 operations per second.

Run as a module it prints one JSON object, so that a server's memory holds none of its arrays.
"""

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from .timing import medians_s

ROOT = Path(__file__).parents[1]
READ_BYTES = 256 << 20  # far beyond any cache
GEMM_SIZE = 2048


@dataclass(frozen=True, slots=True)
class Limits:
    """The roofs that figures are compared with."""

    read_bytes_per_s: float
    bf16_flops_per_s: float


def measure(rounds: int = 7) -> Limits:
    """The best of a few plain readers, and a large square bf16 product, medians of `rounds`."""
    numbers = torch.ones(READ_BYTES // 4)
    readers: dict[str, Callable[[], object]] = {
        "sum": numbers.sum,
        "max": numbers.max,
        "dot": lambda: numbers.dot(numbers),
    }
    read_s = min(medians_s(readers, rounds=rounds).values())
    square = torch.randn(GEMM_SIZE, GEMM_SIZE).bfloat16()
    out = torch.empty_like(square)
    product = medians_s({"mm": lambda: torch.mm(square, square, out=out)}, rounds=rounds)
    return Limits(READ_BYTES / read_s, 2 * GEMM_SIZE**3 / product["mm"])


def measure_apart() -> Limits:
    """`measure` in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.limits"]
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, check=True, timeout=300
    )
    return Limits(**json.loads(done.stdout))


if __name__ == "__main__":
    print(json.dumps(asdict(measure())))
