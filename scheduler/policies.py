"""Which step policies there are, by the name that `--scheduling-policy` gives them."""

from collections.abc import Callable

from hfx.config import SchedulerConfig
from hfx.cost import CostModel

from .admission import Admission
from .fcfs import FirstComeFirstServed
from .fixed import EarliestDueFirst, Priority, ShortestPromptFirst
from .policy import StepPolicy
from .relatives import HfxReconstruction, QoServeLike, ScorpioLike
from .step import SlackPolicy

FIXED: dict[str, type[FirstComeFirstServed]] = {
    "fcfs": FirstComeFirstServed,
    "edf": EarliestDueFirst,
    "srpf": ShortestPromptFirst,
    "priority": Priority,
}
PRICED: dict[str, Callable[..., StepPolicy]] = {
    "hfx": SlackPolicy,
    "qoserve_like": QoServeLike,
    "scorpio_like": ScorpioLike,
    "hfx_reconstruction": HfxReconstruction,
}
POLICIES = (*PRICED, *FIXED)


def build(config: SchedulerConfig, cost: CostModel | None, tile_tokens: int = 16) -> StepPolicy:
    """The step policy that a configuration names, with its limits.

    `cost` prices its steps, and may correct itself while the policy runs; `tile_tokens` is what the
    kernels compute at once, to which prompt chunks are cut.

    Raises:
        ValueError: no policy has that name, or it needs prices and there are none.
    """
    name: str = config.scheduling_policy
    tokens, running = config.max_num_batched_tokens, config.max_num_seqs
    if name in FIXED:
        return FIXED[name](max_step_tokens=tokens, max_running=running)
    if name not in PRICED:
        raise ValueError(f"scheduling_policy is {name!r}: it must be one of {', '.join(POLICIES)}")
    if cost is None:
        raise ValueError(
            f"scheduling_policy {name!r} plans by prices and there are none: set cost_profile to "
            f"something else than off, or choose one of {', '.join(FIXED)}"
        )
    if name == "hfx":
        return SlackPolicy(
            cost, max_step_tokens=tokens, max_running=running, tile_tokens=tile_tokens
        )
    return PRICED[name](cost=cost, max_step_tokens=tokens, max_running=running)


def admission(config: SchedulerConfig, cost: CostModel, policy: StepPolicy) -> Admission:
    """Admission beside a policy: it expects the lengths and the load that the policy has seen."""
    tokens, running = config.max_num_batched_tokens, config.max_num_seqs
    if isinstance(policy, SlackPolicy):
        return Admission(
            cost,
            policy.lengths,
            max_step_tokens=tokens,
            max_running=running,
            arriving=lambda: policy.arriving,
        )
    return Admission(cost, max_step_tokens=tokens, max_running=running)
