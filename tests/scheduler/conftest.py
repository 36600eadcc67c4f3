"""Prices for every test of the scheduler."""

import pytest

from hfx.cost import StepCost
from tests.scheduler.builders import priced


@pytest.fixture
def cost() -> StepCost:
    """10 ms for a step, 1 ms for each decode and each prompt token; bounds are means."""
    return priced()
