"""Products: a roofline is found again, larger is never cheaper, thin tables are refused."""

import random

import numpy as np
import pytest

from hfx.cost import GemmCost


def product_s(m: int, n: int, k: int) -> float:
    return 4e-6 + max(2 * m * n * k / 8e14, 2 * (m * k + n * k + m * n) / 3e12)


def table(count: int, seed: int) -> list[tuple[int, int, int, float]]:
    rng = random.Random(seed)
    sizes = [
        (rng.choice([1, 8, 64, 300, 2048, 8192]), *rng.choices(range(1024, 16384, 512), k=2))
        for _ in range(count)
    ]
    return [(m, n, k, product_s(m, n, k)) for m, n, k in sizes]


def test_a_roofline_is_found_again() -> None:
    cost = GemmCost.fit(table(500, 0))

    errors = [abs(cost.seconds(m, n, k)[0] / t - 1) for m, n, k, t in table(200, 1)]

    assert sum(errors) / len(errors) < 0.01


def test_a_larger_product_is_never_cheaper() -> None:
    cost = GemmCost.fit(table(500, 0))

    times = cost.seconds(np.arange(1.0, 9000.0, 7.0), 4096, 4096)

    assert (np.diff(times) >= 0).all()
    assert cost.seconds(64, 8192, 4096)[0] >= cost.seconds(64, 4096, 4096)[0]


def test_thin_or_broken_tables_are_refused() -> None:
    with pytest.raises(ValueError, match="29 products are too few"):
        GemmCost.fit(table(29, 0))
    with pytest.raises(ValueError, match="not positive and finite"):
        GemmCost.fit([*table(40, 0), (1, 1, 1, 0.0)])
