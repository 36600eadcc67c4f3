"""How threads that compute wait for work: asleep, not spinning, once a step is done."""

import os

SPINS = "2000"  # some 0.1 ms: longer than between two kernels, shorter than between two steps


def let_idle_threads_sleep() -> None:
    """Before the OpenMP library loads: its idle threads spin for milliseconds by default, and the
    event loop and its clients need the cores that they spin on."""
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", SPINS)
