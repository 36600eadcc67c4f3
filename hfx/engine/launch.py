"""Builds one replica's engine from its configuration: model, pool, executor, policy, prices."""

from collections.abc import Callable
from typing import TYPE_CHECKING

from hfx.config import EngineConfig

from .compilations import COMPILATIONS
from .engine import Engine
from .equip import equip
from .policy import admission_for, policy_for
from .prices import live_cost

if TYPE_CHECKING:
    from hfx.models import LoadedModel


def build_engine(
    config: EngineConfig, progress: Callable[[str, float], None] | None = None
) -> tuple[Engine, "LoadedModel"]:
    """An engine that is ready to step, and the model in it; `progress` hears what takes time.

    Sets torch's number of threads, which is the process's.

    Raises:
        ValueError: a setting is impossible; the message says which and what to do.
    """
    with COMPILATIONS.starting():
        equipment = equip(config, progress)
        cost = live_cost(config.cost, equipment, progress)
    prices = None if cost is None else cost.online
    policy = policy_for(config.scheduler, prices)
    model = equipment.model
    engine = Engine(
        equipment.executor,
        policy,
        equipment.pool,
        model.tokenizer.decode,
        vocabulary=model.spec.vocabulary,
        max_model_len=equipment.max_model_len,
        eos_token_ids=model.generation.eos_token_ids,
        seed=config.model.seed,
        cost=cost,
        admission=admission_for(config.scheduler, prices, policy),
    )
    return engine, model
