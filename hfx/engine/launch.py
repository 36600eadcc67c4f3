"""Builds one replica's engine from its configuration: model, pool, executor, policy, prices."""

from collections.abc import Callable
from typing import TYPE_CHECKING

from hfx.config import EngineConfig, SchedulerConfig
from hfx.scheduler import FirstComeFirstServed, StepPolicy

from .engine import Engine
from .equip import equip
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
    equipment = equip(config, progress)
    model = equipment.model
    engine = Engine(
        equipment.executor,
        policy_for(config.scheduler),
        equipment.pool,
        model.tokenizer.decode,
        vocabulary=model.spec.vocabulary,
        max_model_len=equipment.max_model_len,
        eos_token_ids=model.generation.eos_token_ids,
        seed=config.model.seed,
        cost=live_cost(config.cost, equipment, progress),
    )
    return engine, model


def policy_for(config: SchedulerConfig) -> StepPolicy:
    """The step policy that a configuration names."""
    return FirstComeFirstServed(
        max_step_tokens=config.max_num_batched_tokens, max_running=config.max_num_seqs
    )
