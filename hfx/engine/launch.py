"""Builds one replica's engine from its configuration: model, pool, executor, policy, prices."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

from hfx.cache import BlockPool
from hfx.config import EngineConfig

from .batch import Company, Executor
from .compilations import COMPILATIONS
from .engine import Engine
from .live_cost import LiveCost
from .policy import admission_for, policy_for

if TYPE_CHECKING:
    from hfx.models import Words

Progress = Callable[[str, float], None]


class Outfit(Protocol):
    """A model's words and what stands ready to compute its tokens, on a device or for one."""

    @property
    def model(self) -> "Words": ...
    @property
    def executor(self) -> Executor: ...
    @property
    def pool(self) -> BlockPool: ...
    @property
    def max_model_len(self) -> int: ...
    @property
    def company(self) -> Company | None: ...


def build_engine(config: EngineConfig, progress: Progress | None = None) -> tuple[Engine, "Words"]:
    """An engine that is ready to step, and its model; `progress` hears what takes time.

    Sets torch's number of threads, which is the process's; for an emulated device torch is not
    imported, and of the model only its words are read.

    Raises:
        ValueError: a setting is impossible; the message says which and what to do.
    """
    with COMPILATIONS.starting():
        outfit, cost = _outfit(config, progress)
    prices = None if cost is None else cost.online
    policy = policy_for(config.scheduler, prices)
    model = outfit.model
    engine = Engine(
        outfit.executor,
        policy,
        outfit.pool,
        model.tokenizer.decode,
        vocabulary=model.vocabulary,
        max_model_len=outfit.max_model_len,
        eos_token_ids=model.generation.eos_token_ids,
        seed=config.model.seed,
        cost=cost,
        admission=admission_for(config.scheduler, prices, policy),
        company=outfit.company,
    )
    return engine, model


def _outfit(config: EngineConfig, progress: Progress | None) -> tuple[Outfit, LiveCost | None]:
    if config.emulated_profile is not None:
        from .emulate import emulate

        return emulate(config, progress)
    from .equip import equip  # here: it imports torch
    from .prices import live_cost

    equipment = equip(config, progress)
    return equipment, live_cost(config.cost, equipment, progress)
