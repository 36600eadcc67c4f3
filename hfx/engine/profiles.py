"""Cost profiles of this machine: their key, where they are kept, how they are made.

Seconds, bytes.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import torch

import hfx
from hfx.cost import Key, Regime, Sizes, Startup, StepCost, device, fit, roofline
from hfx.cost.fitting import scaled
from hfx.models import DecoderSpec
from hfx.request import Mix, Sampling

from .equip import Equipment
from .measure import Measured, Progress, in_order, measure
from .measure_shapes import Bounds
from .measure_spells import without_slow_spells

CPUINFO = Path("/proc/cpuinfo")
QUANTILE = 0.95
PRIOR_DEVICE = "cpu-2-cores"  # whose data sheet is scaled where little was measured
MOST_KV_TOKENS = 1 << 16  # longer contexts in sum say nothing new about the price of a token
FILL_SHARE = 0.1  # of the budget may go to memory that is touched for the first time
FILL_BYTES_PER_S = 1e9  # about how fast a system hands memory out


@dataclass(frozen=True, slots=True)
class Calibration:
    """A model and the measurements that it was fitted to."""

    model: StepCost
    measured: tuple[Measured, ...]


def key_of(equipment: Equipment) -> Key:
    """What a profile must have been measured for to be true of this engine."""
    decoder = equipment.model.decoder
    return Key(
        device=device_name(decoder.device, decoder.operators.threads),
        model=equipment.model.title,
        dtype=str(decoder.dtype).removeprefix("torch."),
        tensor_parallel=decoder.shard.ranks,
        version=f"{hfx.__version__}+{decoder.operators.name}",
    )


def device_name(at: torch.device, threads: int | None) -> str:
    """The processor's name, and how many threads share the work where it is a CPU."""
    if at.type != "cpu":
        return _slug(torch.cuda.get_device_name(at) if at.type == "cuda" else at.type)
    named = re.search(r"^model name\s*:\s*(.+)$", _read(CPUINFO), re.MULTILINE)
    threads = threads or torch.get_num_threads()
    return f"{_slug(named[1]) if named else 'cpu'}-{threads}-thread{'s' if threads > 1 else ''}"


def profile_path(home: str | Path, key: Key) -> Path:
    """Where the profile of a key is kept."""
    parts = (key.device, key.model, key.dtype, f"tp{key.tensor_parallel}", key.version)
    return Path(home).expanduser() / "profiles" / f"{'_'.join(map(_slug, parts))}.json"


def prior(equipment: Equipment) -> StepCost:
    """Prices from sizes and a data sheet, before anything is measured."""
    decoder, key = equipment.model.decoder, key_of(equipment)
    sizes, ranks = sizes_of(decoder.shard.spec, decoder.dtype.itemsize), decoder.shard.ranks
    sheet, links = device(PRIOR_DEVICE), {}
    if equipment.link is not None:
        links["ranks"] = equipment.link
        sheet = replace(  # the ranks share that device, and the sums between them were measured
            sheet,
            flops_per_s=sheet.flops_per_s / ranks,
            bytes_per_s=sheet.bytes_per_s / ranks,
            link_bytes_per_s=equipment.link.bytes_per_s / sheet.bytes_share,
            link_latency_s=equipment.link.latency_s,
        )
    known = roofline(sizes, sheet, model=key.model, tensor_parallel=ranks, dtype=key.dtype)
    total = decoder.total_kv_bytes_per_token
    return replace(known, key=key, kv_bytes_per_token=total, links=links)


def sizes_of(spec: DecoderSpec, element_bytes: int) -> Sizes:
    """A decoder's sizes in the cost models' terms."""
    names = ("layers", "width", "ffn_width", "query_heads", "kv_heads", "head_size", "vocabulary")
    return Sizes(**{name: getattr(spec, name) for name in names}, element_bytes=element_bytes)


def calibrate(
    equipment: Equipment,
    budget_s: float,
    *,
    progress: Progress | None = None,
    phases_s: dict[str, float] | None = None,
) -> Calibration:
    """Measure this engine's steps for so long and fit a model; `phases_s` are its start's.

    Raises:
        ValueError: the budget is not positive.
    """
    first = prior(equipment)
    measured = measure(
        equipment.executor,
        equipment.pool,
        bounds_of(equipment, budget_s),
        guess=first,
        vocabulary=equipment.model.spec.vocabulary,
        samplings=(Sampling(temperature=0.0), usual_sampling(equipment)),
        budget_s=budget_s,
        progress=progress,
    )
    samples = in_order(measured)
    weights = first.startup.weight_bytes if first.startup else 0
    when = datetime.now(UTC).isoformat(timespec="seconds")
    key = key_of(equipment)
    model = fit(
        without_slow_spells(samples, key, first),
        key=key,
        prior=first,
        quantile=QUANTILE,
        kv_bytes_per_token=first.kv_bytes_per_token,
        startup=Startup(phases_s or {}, weights),
        source=f"measured {when}: {len(samples)} steps of {len(measured)} shapes",
    )
    return Calibration(levelled(model, samples), tuple(measured))


def levelled(model: StepCost, samples: Sequence[tuple[Mix, float]]) -> StepCost:
    """The model at the level of all samples, its bounds wide enough for single steps.

    The form comes from undisturbed steps; those that it will price may be disturbed.
    """
    decode = [(mix, seconds) for mix, seconds in samples if not mix.prefill_tokens]
    mixed = [(mix, seconds) for mix, seconds in samples if mix.prefill_tokens]
    return replace(
        model,
        decode=_levelled(model, model.decode, decode),
        mixed=_levelled(model, model.mixed, mixed),
    )


def _levelled(model: StepCost, regime: Regime, samples: Sequence[tuple[Mix, float]]) -> Regime:
    if not samples:
        return regime
    ratios = np.array([seconds / model.step_s(mix).mean_s for mix, seconds in samples])
    level, high = np.quantile(ratios, (0.5, QUANTILE)).tolist()
    return scaled(regime, level, max(regime.upper_factor, high / level))


def bounds_of(equipment: Equipment, budget_s: float) -> Bounds:
    """What this engine's steps can be at most, as far as such a budget measures them."""
    pool, limits, decoder = equipment.pool, equipment.limits, equipment.model.decoder
    fill_bytes = FILL_SHARE * budget_s * FILL_BYTES_PER_S
    affordable = max(int(fill_bytes / decoder.total_kv_bytes_per_token), 4 * pool.block_tokens)
    return Bounds(
        max_seqs=limits.max_num_seqs,
        max_step_tokens=limits.max_num_batched_tokens,
        max_model_len=equipment.max_model_len,
        kv_tokens=min(pool.total * pool.block_tokens, affordable, MOST_KV_TOKENS),
        block_tokens=pool.block_tokens,
    )


def usual_sampling(equipment: Equipment) -> Sampling:
    """How a request is drawn that leaves it to the model."""
    advice = equipment.model.generation
    names = ("temperature", "top_p", "top_k", "min_p")
    given = {name: getattr(advice, name) for name in names}
    return Sampling(**{name: value for name, value in given.items() if value is not None})


def measured_at(model: StepCost) -> datetime | None:
    """When a profile of this machine was measured, if it says so."""
    found = re.match(r"measured (\S+): ", model.source)
    try:
        return datetime.fromisoformat(found[1]) if found else None
    except ValueError:
        return None


def _slug(name: str) -> str:
    return re.sub(r"[^a-z0-9.+]+", "-", name.lower()).strip("-")


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""
