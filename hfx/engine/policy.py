"""Which step policy and admission a configuration asks for, with the prices that there are."""

import logging
from dataclasses import replace

from hfx.config import SchedulerConfig
from hfx.cost import CostModel
from hfx.scheduler import StepPolicy, build
from hfx.scheduler.admission import Admission
from hfx.scheduler.policies import admission

logger = logging.getLogger(__name__)


def policy_for(config: SchedulerConfig, cost: CostModel | None) -> StepPolicy:
    """The step policy that a configuration names; without prices, first come, first served.

    Raises:
        ValueError: one of the others that plan by prices was named, and there are none.
    """
    if config.scheduling_policy == "hfx" and cost is None:
        logger.info("scheduling_policy is fcfs: hfx plans by prices, and cost_profile is off")
        config = replace(config, scheduling_policy="fcfs")
    return build(config, cost)


def admission_for(
    config: SchedulerConfig, cost: CostModel | None, policy: StepPolicy
) -> Admission | None:
    """What predicts requests, and expects what the policy expects; None without prices."""
    if cost is None:
        return None
    return admission(config, cost, policy)
