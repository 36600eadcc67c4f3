"""Clocks: the machine's never runs backwards, the virtual one stands still until moved."""

import pytest

from hfx.clock import MonotonicClock, VirtualClock


def test_the_machines_clock_never_runs_backwards() -> None:
    clock = MonotonicClock()
    readings = [clock.now_s() for _ in range(100)]

    assert readings == sorted(readings)


def test_a_virtual_clock_moves_only_when_told() -> None:
    clock = VirtualClock(5.0)
    assert clock.now_s() == clock.now_s() == 5.0

    clock.advance(2.5)

    assert clock.now_s() == 7.5


def test_a_virtual_clock_refuses_to_run_backwards() -> None:
    with pytest.raises(ValueError, match=r"advance\(-1\.0\) is negative"):
        VirtualClock().advance(-1.0)
