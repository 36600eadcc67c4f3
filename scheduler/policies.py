"""Which step policies there are, by the name that `--scheduling-policy` gives them."""

from collections.abc import Callable

from hfx.config import SchedulerConfig
from hfx.cost import CostModel

from .fcfs import FirstComeFirstServed
from .policy import StepPolicy

Make = Callable[[SchedulerConfig, CostModel | None, int], StepPolicy]


def _fcfs(config: SchedulerConfig, cost: CostModel | None, tile_tokens: int) -> StepPolicy:
    return FirstComeFirstServed(
        max_step_tokens=config.max_num_batched_tokens, max_running=config.max_num_seqs
    )


POLICIES: dict[str, Make] = {"fcfs": _fcfs}


def build(config: SchedulerConfig, cost: CostModel | None, tile_tokens: int = 16) -> StepPolicy:
    """The step policy that a configuration names, with its limits.

    `cost` prices its steps, and may correct itself while the policy runs; `tile_tokens` is what the
    kernels compute at once, to which prompt chunks are cut.

    Raises:
        ValueError: no policy has that name, or it needs prices and there are none.
    """
    name = config.scheduling_policy
    if name not in POLICIES:
        known = ", ".join(POLICIES)
        raise ValueError(f"scheduling_policy is {name!r}: it must be one of {known}")
    return POLICIES[name](config, cost, tile_tokens)
